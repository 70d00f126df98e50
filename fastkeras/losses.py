"""Keras losses."""

from fastkeras.crf.loss import CRFLoss

__all__ = ["CRFLoss"]
