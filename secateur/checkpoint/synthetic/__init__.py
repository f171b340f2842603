"""Checkpoints of random numbers with the names, types and shapes of a real one."""
