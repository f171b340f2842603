"""Other formats' bytes: GGUF, its block types, the importance matrix."""
