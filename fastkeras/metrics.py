"""Keras metrics."""

from fastkeras.crf.metrics import CRFAccuracy

__all__ = ["CRFAccuracy"]
