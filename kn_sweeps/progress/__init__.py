"""What a long computation tells while it goes on, and what stops it."""
