"""Statistics of calibration: exact sums, merging, coverage."""
