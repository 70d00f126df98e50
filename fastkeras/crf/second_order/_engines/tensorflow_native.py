"""The C++ kernels as TensorFlow ops on CPUs: eager, in graphs and under XLA.

The values are differentiable once, with respect to all scores.
"""

import tensorflow as tf
from tensorflow.python.eager.record import could_possibly_record

from fastkeras._ops.tensorflow import library
from fastkeras.crf._engines.tensorflow_native import (
    GOLD,
    KERAS,
    LOG_LIKELIHOOD,
    LOG_PARTITION,
    SEQUENCE_SCORE,
    _inputs,
    _not_differentiable,
    _num_threads,
)


def log_partition(chain, triples, allowed):
    return _value(chain, triples, tf.zeros((0, 0), tf.int32), LOG_PARTITION)


def sequence_score(chain, tags, triples, allowed):
    return _value(chain, triples, tags, SEQUENCE_SCORE)


def log_likelihood(chain, tags, triples, allowed):
    return _value(chain, triples, tags, LOG_LIKELIHOOD)


def marginals(chain, triples, allowed):
    return tuple(_call(library.fastkeras_second_order_marginals, chain, triples))


def viterbi(chain, triples, allowed):
    return tuple(_call(library.fastkeras_second_order_viterbi, chain, triples))


def _call(op, chain, triples, *more, **attributes):
    inputs = (*_inputs(chain), *map(tf.convert_to_tensor, (triples, *more)))
    return op(*inputs, num_threads=_num_threads(), **attributes)


def _value(chain, triples, tags, quantity):
    return _call(
        library.fastkeras_second_order_value,
        chain,
        triples,
        tags,
        quantity=quantity,
        keep_workspace=could_possibly_record(),  # as of the linear chain
    ).value


@tf.RegisterGradient("Fastkeras>SecondOrderValue")
def _value_gradient(op, d_value, _):
    value, workspace = op.outputs
    attributes = {"quantity": op.get_attr("quantity"), "num_threads": op.get_attr("num_threads")}
    if not op.get_attr("keep_workspace"):
        value, workspace = library.fastkeras_second_order_value(*op.inputs, **attributes)
    *of_chain, d_triples = library.fastkeras_second_order_gradient(
        *op.inputs, value, workspace, d_value, **attributes
    )
    return *of_chain, None, None, d_triples, None


tf.RegisterGradient("Fastkeras>SecondOrderGradient")(
    _not_differentiable("the gradient of a second-order CRF", KERAS)
)
tf.RegisterGradient("Fastkeras>SecondOrderMarginals")(_not_differentiable("marginals", KERAS))
tf.RegisterGradient("Fastkeras>SecondOrderViterbi")(
    _not_differentiable("the score of viterbi", GOLD)
)
