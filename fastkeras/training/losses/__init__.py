"""Losses of any tensors, as layers and as losses of Keras."""
