"""Keras losses."""

from fastkeras.crf.layers.loss import CRFLoss
from fastkeras.crf.layers.objective import CRFObjective
from fastkeras.seq2seq.layers.loss import SequenceCrossentropy
from fastkeras.tagging.multilabel import MultilabelCategoricalCrossentropy
from fastkeras.tagging.span_loss import SpanCrossentropy
from fastkeras.training.losses.batch_triplets import BatchTripletLoss
from fastkeras.training.losses.center_loss import CenterLoss
from fastkeras.training.losses.loss_layers import add_loss
from fastkeras.training.losses.smoothed_crossentropy import SmoothedCrossentropy

__all__ = [
    "BatchTripletLoss",
    "CRFLoss",
    "CRFObjective",
    "CenterLoss",
    "MultilabelCategoricalCrossentropy",
    "SequenceCrossentropy",
    "SmoothedCrossentropy",
    "SpanCrossentropy",
    "add_loss",
]
