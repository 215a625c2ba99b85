"""Measurements that documents quote: python -m benchmarks.NAME, with --json for one object."""
