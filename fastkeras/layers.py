"""Keras layers."""

from fastkeras.crf.layer import CRF
from fastkeras.training.center_loss import CenterDistances, CenterLossLayer
from fastkeras.training.loss_layers import LossLayer
from fastkeras.training.metric_layers import MetricLayer
from fastkeras.training.triplet_loss import TripletLossLayer

__all__ = [
    "CRF",
    "CenterDistances",
    "CenterLossLayer",
    "LossLayer",
    "MetricLayer",
    "TripletLossLayer",
]
