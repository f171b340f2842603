"""Manifest and report."""
