"""The C++ kernels as calls of XLA, for JAX arrays on the CPU, eagerly and in compiled programs.

The values are differentiable once, in reverse, with respect to all scores.
"""

from ctypes import c_int64

from jax import ShapeDtypeStruct

from fastkeras._ops.jax import differentiable, function_of, on_numpy_arrays, op
from fastkeras.crf._engines.jax_native import (
    GOLD,
    KERAS,
    LOG_LIKELIHOOD,
    LOG_PARTITION,
    NO_MASK,
    NO_TAGS,
    SEQUENCE_SCORE,
)
from fastkeras.crf.chain import check_values

WORKSPACE_SIZE = function_of("fastkeras_second_order_workspace", c_int64, c_int64, c_int64, c_int64)
GRADIENT = "the gradient of a second-order CRF"


def log_partition(chain, triples, allowed):
    return _answer(_value, chain, triples, NO_TAGS, quantity=LOG_PARTITION)


def sequence_score(chain, tags, triples, allowed):
    return _answer(_value, chain, triples, tags, quantity=SEQUENCE_SCORE)


def log_likelihood(chain, tags, triples, allowed):
    return _answer(_value, chain, triples, tags, quantity=LOG_LIKELIHOOD)


def marginals(chain, triples, allowed):
    return _answer(_marginals, chain, triples)


def viterbi(chain, triples, allowed):
    return _answer(_viterbi, chain, triples)


def _answer(function, chain, triples, *tags, **attributes):
    mask = NO_MASK if chain.mask is None else chain.mask
    inputs = (*chain.scores, chain.lengths, mask, triples, *tags)
    if chain.family == "numpy":
        return on_numpy_arrays(function, *inputs, **attributes)
    given = tags[0] if tags and tags[0] is not NO_TAGS else None
    check_values(chain, given)  # an error from the kernel would come late, and be no ValueError
    return function(*inputs, **attributes)


_gradient = op(
    "fastkeras_second_order_gradient",
    lambda x, a, start, end, lengths, mask, triples, *_, quantity: tuple(
        ShapeDtypeStruct(scores.shape, scores.dtype) for scores in (x, a, start, end, triples)
    ),
    GRADIENT,
    KERAS,
)


def _value_and_workspace_shapes(x, *_, quantity, keep_workspace):
    size = WORKSPACE_SIZE(*x.shape) if keep_workspace else 0
    return ShapeDtypeStruct(x.shape[:1], x.dtype), ShapeDtypeStruct((size,), x.dtype)


_value_and_workspace = op(
    "fastkeras_second_order_value", _value_and_workspace_shapes, GRADIENT, KERAS
)


def _value_alone(attributes, *inputs):
    return _value_and_workspace(*inputs, **dict(attributes), keep_workspace=False)[0]


def _forward(attributes, *inputs):
    value, workspace = _value_and_workspace(*inputs, **dict(attributes), keep_workspace=True)
    return value, (inputs, value, workspace)


def _backward(attributes, kept, weights):
    inputs, value, workspace = kept
    *of_chain, d_triples = _gradient(*inputs, value, workspace, weights, **dict(attributes))
    return *of_chain, None, None, d_triples, None


_value = differentiable(_value_alone, _forward, _backward)
_marginals = op(
    "fastkeras_second_order_marginals",
    lambda x, a, *_: (
        ShapeDtypeStruct(x.shape, x.dtype),
        ShapeDtypeStruct((x.shape[0], *a.shape), x.dtype),
    ),
    "marginals",
    KERAS,
)
_viterbi = op(
    "fastkeras_second_order_viterbi",
    lambda x, *_: (
        ShapeDtypeStruct(x.shape[:2], "int32"),
        ShapeDtypeStruct(x.shape[:1], x.dtype),
    ),
    "the score of viterbi",
    GOLD,
)
