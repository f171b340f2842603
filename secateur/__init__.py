"""secateur makes Mixture-of-Experts language models smaller and proves what that cost."""

__version__ = "0.1.0"
