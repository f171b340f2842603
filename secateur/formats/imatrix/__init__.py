"""Importance matrices of llama.cpp."""
