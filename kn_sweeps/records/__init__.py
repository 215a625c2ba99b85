"""What is on disk: run directories, caches, locks, seals and provenance."""
