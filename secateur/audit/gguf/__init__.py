"""What a GGUF file is."""
