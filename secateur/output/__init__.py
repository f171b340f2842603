"""A plan and a checkpoint become files: the pruned shards, GGUF, what lies beside them."""
