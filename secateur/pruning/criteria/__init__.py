"""What an expert is worth: `base.py` first, then one file a criterion."""
