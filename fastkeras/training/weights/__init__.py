"""Weights that are transformed before use."""
