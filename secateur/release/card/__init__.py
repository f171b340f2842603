"""The model card of an output: every number in it has a place in a result file."""
