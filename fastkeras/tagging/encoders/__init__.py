"""Layers of encoders, and what they share."""
