"""GGUF files: container, metadata, tensors, tokenizer."""
