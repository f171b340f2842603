"""Sums that a calibration makes on request: `base.py` first, then one file an observer."""
