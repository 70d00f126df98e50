"""Keras layers."""

from fastkeras.crf.layer import CRF

__all__ = ["CRF"]
