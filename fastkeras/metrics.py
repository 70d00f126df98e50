"""Keras metrics."""

from fastkeras.crf.layers.metrics import CRFAccuracy, CRFExactMatch, CRFSpanScore
from fastkeras.crf.layers.semi_markov.metric import SegmentScore
from fastkeras.tagging.span_score import NestedSpanScore
from fastkeras.training.metric_layers import add_metric, watch

__all__ = [
    "CRFAccuracy",
    "CRFExactMatch",
    "CRFSpanScore",
    "NestedSpanScore",
    "SegmentScore",
    "add_metric",
    "watch",
]
