"""The C++ kernels as calls of XLA, for JAX arrays on the CPU, eagerly and in compiled programs.

log Z is differentiable once, in reverse, with respect to all scores.
"""

from jax import ShapeDtypeStruct
from jax import numpy as jnp

from fastkeras._ops.jax import differentiable, on_numpy_arrays, op
from fastkeras.crf._engines.jax_native import KERAS
from fastkeras.crf.chain import check_values


def log_partition(chain, durations):
    return _answer(_differentiable_log_partition, chain, durations)


def marginals(chain, durations):
    return _answer(_marginals, chain, durations)


def viterbi(chain, durations):
    return _answer(_viterbi, chain, durations)


def _answer(function, chain, durations):
    boundaries = chain.start_transitions, chain.end_transitions
    inputs = (chain.emissions, chain.transitions, durations, chain.lengths, *boundaries)
    if chain.family == "numpy":
        return on_numpy_arrays(function, *inputs)
    check_values(chain)  # an error from the kernel would come late, and be no ValueError
    return function(*inputs)


_log_partition = op(
    "fastkeras_semi_markov_log_partition",
    lambda x, *_: ShapeDtypeStruct(x.shape[:1], x.dtype),
    "log Z in this way",  # the differentiable function is below
    KERAS,
)


def _shapes_of_marginals(x, transitions, durations, *_):
    batch, steps = x.shape[:2]
    shapes = x.shape, (batch, steps, *durations.shape), (batch, *transitions.shape)
    return tuple(ShapeDtypeStruct(shape, x.dtype) for shape in shapes)


_marginals = op("fastkeras_semi_markov_marginals", _shapes_of_marginals, "marginals", KERAS)
_viterbi = op(
    "fastkeras_semi_markov_viterbi",
    lambda x, *_: (
        ShapeDtypeStruct(x.shape[:2], "int32"),
        ShapeDtypeStruct(x.shape[:2], "bool"),
        ShapeDtypeStruct(x.shape[:1], x.dtype),
    ),
    "the score of viterbi",
    KERAS,
)


def _forward(attributes, *inputs):
    return _log_partition(*inputs), inputs


def _backward(attributes, inputs, weights):
    """The derivatives are the marginals; for start and end, those of the first and last step."""
    x, transitions, durations, lengths, start, end = inputs
    lengths = jnp.where(weights != 0, lengths, 0)  # 0 times NaN would be NaN
    unary, segments, counts = _marginals(x, transitions, durations, lengths, start, end)
    d_x = weights[:, None, None] * unary
    last = jnp.arange(x.shape[1]) == lengths[:, None] - 1  # none for length 0
    d_end = jnp.where(last[..., None], d_x, 0).sum((0, 1))
    d_start = jnp.einsum("b,btlj->j", weights, segments[:, :1])
    d_transitions = jnp.einsum("b,bij->ij", weights, counts)
    d_durations = jnp.einsum("b,btlj->lj", weights, segments)
    return d_x, d_transitions, d_durations, None, d_start, d_end


_differentiable_log_partition = differentiable(
    lambda attributes, *inputs: _log_partition(*inputs), _forward, _backward
)
