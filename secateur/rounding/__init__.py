"""Codes and scales of quantized rows, chosen with error feedback: `grid.py`, then `feedback.py`."""
