"""Keras layers."""

from fastkeras.crf.layers.crf import CRF
from fastkeras.crf.layers.memm import MEMM
from fastkeras.crf.layers.second_order import SecondOrderCRF
from fastkeras.crf.layers.semi_markov.layer import SemiMarkovCRF
from fastkeras.seq2seq.layers.attention_decoder import AttentionDecoder
from fastkeras.seq2seq.layers.conditional_normalization import ConditionalLayerNormalization
from fastkeras.seq2seq.layers.copy_prior import CopyPrior
from fastkeras.seq2seq.layers.transformer_decoder import TransformerDecoder
from fastkeras.tagging.encoders.gated_attention import GatedAttentionUnit
from fastkeras.tagging.encoders.pooling import SequencePooling
from fastkeras.tagging.encoders.relative_attention import RelativeMultiHeadAttention
from fastkeras.tagging.encoders.relative_positions import RelativePositionBias
from fastkeras.tagging.global_pointer import EfficientGlobalPointer, GlobalPointer
from fastkeras.tagging.ragged import PadRagged
from fastkeras.tagging.subwords import WordPooling
from fastkeras.training.gradients.reversal import GradientReversal
from fastkeras.training.losses.center_loss import CenterDistances, CenterLossLayer
from fastkeras.training.losses.loss_layers import LossLayer
from fastkeras.training.losses.triplet_loss import TripletLossLayer
from fastkeras.training.metric_layers import MetricLayer
from fastkeras.training.rematerialize import Rematerialize
from fastkeras.training.weights.reparameterize import Reparameterize
from fastkeras.word2vec.layers import CBOW, SkipGram

__all__ = [
    "CBOW",
    "CRF",
    "MEMM",
    "AttentionDecoder",
    "CenterDistances",
    "CenterLossLayer",
    "ConditionalLayerNormalization",
    "CopyPrior",
    "EfficientGlobalPointer",
    "GatedAttentionUnit",
    "GlobalPointer",
    "GradientReversal",
    "LossLayer",
    "MetricLayer",
    "PadRagged",
    "RelativeMultiHeadAttention",
    "RelativePositionBias",
    "Rematerialize",
    "Reparameterize",
    "SecondOrderCRF",
    "SemiMarkovCRF",
    "SequencePooling",
    "SkipGram",
    "TransformerDecoder",
    "TripletLossLayer",
    "WordPooling",
]
