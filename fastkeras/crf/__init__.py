"""Linear-chain conditional random fields: values, hand-derived gradients, decoding.

Every function takes NumPy arrays, or tensors of TensorFlow, JAX or torch, and returns the same
kind. The mathematics, with the derivation of each gradient, is in docs/crf.md.

Source: Lafferty, McCallum & Pereira, 2001, "Conditional random fields"; the scaled recursions are
Rabiner's, 1989, "A tutorial on hidden Markov models", section V.A.
"""

from fastkeras.crf import constraints, memm, second_order, semi_markov
from fastkeras.crf.chain import Gradients, LowRank
from fastkeras.crf.constraints import Constraints
from fastkeras.crf.inference import marginals, posterior_decode, span_confidence
from fastkeras.crf.information import (
    cross_entropy,
    entropy,
    entropy_and_gradients,
    kl_divergence,
    log_count,
)
from fastkeras.crf.likelihoods import (
    log_likelihood,
    log_likelihood_and_gradients,
    log_partition,
    sequence_score,
)
from fastkeras.crf.objectives import (
    expected_cost,
    marginal_log_likelihood,
    max_margin_loss,
    softmax_margin_loss,
)
from fastkeras.crf.partial_labels import log_likelihood_of_sets
from fastkeras.crf.paths import k_best, sample, viterbi
from fastkeras.crf.span_metrics import SpanScore, span_evaluation, span_scores
from fastkeras.crf.streaming import ViterbiStream
from fastkeras.crf.weighted import smoothed_log_likelihood, weighted_log_likelihood

__all__ = [
    "Constraints",
    "Gradients",
    "LowRank",
    "SpanScore",
    "ViterbiStream",
    "constraints",
    "cross_entropy",
    "entropy",
    "entropy_and_gradients",
    "expected_cost",
    "k_best",
    "kl_divergence",
    "log_count",
    "log_likelihood",
    "log_likelihood_and_gradients",
    "log_likelihood_of_sets",
    "log_partition",
    "marginal_log_likelihood",
    "marginals",
    "max_margin_loss",
    "memm",
    "posterior_decode",
    "sample",
    "second_order",
    "semi_markov",
    "sequence_score",
    "smoothed_log_likelihood",
    "softmax_margin_loss",
    "span_confidence",
    "span_evaluation",
    "span_scores",
    "viterbi",
    "weighted_log_likelihood",
]
