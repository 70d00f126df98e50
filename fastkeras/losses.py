"""Keras losses."""

from fastkeras.crf.layers.loss import CRFLoss
from fastkeras.training.center_loss import CenterLoss
from fastkeras.training.loss_layers import add_loss
from fastkeras.training.smoothed_crossentropy import SmoothedCrossentropy

__all__ = ["CRFLoss", "CenterLoss", "SmoothedCrossentropy", "add_loss"]
