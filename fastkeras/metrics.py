"""Keras metrics."""

from fastkeras.crf.metrics import CRFAccuracy
from fastkeras.training.metric_layers import add_metric, watch

__all__ = ["CRFAccuracy", "add_metric", "watch"]
