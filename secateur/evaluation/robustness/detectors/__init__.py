"""Detectors of degenerate replies, a file each; `base.py` says what one is."""
