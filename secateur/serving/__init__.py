"""Engines that serve a model."""
