"""GGUF files of a pruned model."""
