"""Suites that need no hub: questions made from a seed, each with a check of its answer."""
