"""Ways to edit: each method plans frozen edits for cases and changes nothing itself."""
