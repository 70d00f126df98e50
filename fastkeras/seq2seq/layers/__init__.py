"""Keras layers and a loss for models that generate sequences."""
