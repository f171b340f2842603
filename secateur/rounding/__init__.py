"""Levels and scales of scalar types, chosen with error feedback: `grid.py`, then `feedback.py`."""
