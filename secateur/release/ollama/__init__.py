"""The files that Ollama needs of a GGUF, derived from the template in it and proved against it."""
