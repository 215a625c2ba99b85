"""How values show themselves to whoever types their name."""
