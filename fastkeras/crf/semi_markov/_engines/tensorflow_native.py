"""The C++ kernels as TensorFlow ops on CPUs: eager, and in graphs of any batch and steps.

log Z is differentiable once, with respect to all scores; see csrc/crf/semi_markov/tensorflow.cc.
"""

import tensorflow as tf

from fastkeras._ops.tensorflow import library
from fastkeras.crf._engines.tensorflow_native import KERAS, _not_differentiable, _num_threads


def log_partition(chain, durations):
    return _call(library.fastkeras_semi_markov_log_partition, chain, durations)


def marginals(chain, durations):
    return tuple(_call(library.fastkeras_semi_markov_marginals, chain, durations))


def viterbi(chain, durations):
    return tuple(_call(library.fastkeras_semi_markov_viterbi, chain, durations))


def _call(op, chain, durations):
    boundaries = chain.start_transitions, chain.end_transitions
    inputs = (chain.emissions, chain.transitions, durations, chain.lengths, *boundaries)
    return op(*map(tf.convert_to_tensor, inputs), num_threads=_num_threads())


@tf.RegisterGradient("Fastkeras>SemiMarkovLogPartition")
def _log_partition_gradient(op, weights):
    """The derivatives are the marginals; for start and end, those of the first and last step."""
    lengths = tf.where(weights != 0, op.inputs[3], 0)  # 0 times NaN would be NaN
    unary, segments, counts = library.fastkeras_semi_markov_marginals(
        *op.inputs[:3], lengths, *op.inputs[4:], num_threads=op.get_attr("num_threads")
    )
    d_emissions = weights[:, None, None] * unary
    last = tf.one_hot(lengths - 1, tf.shape(unary)[1], dtype=unary.dtype)  # zeros for length 0
    d_end = tf.einsum("bt,btj->j", last, d_emissions)
    d_start = tf.einsum("b,btlj->j", weights, segments[:, :1])
    d_transitions = tf.einsum("b,bij->ij", weights, counts)
    d_durations = tf.einsum("b,btlj->lj", weights, segments)
    return d_emissions, d_transitions, d_durations, None, d_start, d_end


tf.RegisterGradient("Fastkeras>SemiMarkovMarginals")(_not_differentiable("marginals", KERAS))
tf.RegisterGradient("Fastkeras>SemiMarkovViterbi")(
    _not_differentiable("the score of viterbi", KERAS)
)
