"""Losses computed from any tensors, as layers and as losses of Keras."""
