"""A plan and a checkpoint become tensors, and tensors become files."""
