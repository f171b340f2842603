"""Running a model layer by layer, with its experts observed."""
