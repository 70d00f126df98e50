"""Keras layers and a loss for models that write sequences."""
