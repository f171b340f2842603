"""Output formats: decide, predict, write, open."""
