"""Keras layers."""

from fastkeras.crf.layers.crf import CRF
from fastkeras.crf.layers.memm import MEMM
from fastkeras.training.center_loss import CenterDistances, CenterLossLayer
from fastkeras.training.gradients import GradientReversal
from fastkeras.training.loss_layers import LossLayer
from fastkeras.training.metric_layers import MetricLayer
from fastkeras.training.reparameterize import Reparameterize
from fastkeras.training.triplet_loss import TripletLossLayer
from fastkeras.word2vec.layers import CBOW, SkipGram

__all__ = [
    "CBOW",
    "CRF",
    "MEMM",
    "CenterDistances",
    "CenterLossLayer",
    "GradientReversal",
    "LossLayer",
    "MetricLayer",
    "Reparameterize",
    "SkipGram",
    "TripletLossLayer",
]
