"""Bringing run directories to a dashboard. A run itself writes nothing but its directory."""
