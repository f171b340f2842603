"""Levels of scalar types chosen with error feedback: `grid.py` first, then `feedback.py`."""
