"""A model on disk: what its tensors are called, where they lie, reading and writing them."""
