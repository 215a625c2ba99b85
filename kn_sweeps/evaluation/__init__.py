"""Cases asked before and after edits: one by one, in batches, in a sequence."""
