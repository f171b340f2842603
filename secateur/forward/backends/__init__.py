"""Where a model is run: `base.py` first, then one file a kind of machine."""
