"""The HTML report of a sweep: what each section shows, and the page that shows it."""
