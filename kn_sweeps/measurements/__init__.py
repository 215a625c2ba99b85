"""What is asked of a model besides the answers to its probes: one kind, one file, one YAML."""
