"""What methods that write to an MLP share: contexts, target values, second moments."""
