"""Locate, edit and measure what a language model knows."""
