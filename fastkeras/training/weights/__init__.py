"""Weights transformed before their use."""
