"""The pruned checkpoint."""
