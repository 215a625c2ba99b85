"""Reads finished runs and shows them; it never runs a model."""
