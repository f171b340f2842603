"""Quantization recipes and the type rules of llama.cpp."""
