"""Rows in, sums out: what every expert did."""
