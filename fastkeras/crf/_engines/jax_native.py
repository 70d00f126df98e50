"""The C++ kernels as calls of XLA, for JAX arrays on the CPU, eagerly and in compiled programs.

The values are differentiable once, in reverse, with respect to all scores.
"""

from ctypes import c_char_p, c_int, c_int64
from functools import partial

import numpy as np
from jax import ShapeDtypeStruct
from jax import numpy as jnp

from fastkeras._ops.jax import differentiable, function_of, on_numpy_arrays
from fastkeras._ops.jax import op as op_of_any_domain
from fastkeras.crf.chain import Gradients, check_values

VARYING_TRANSITIONS = True  # this engine takes transitions that vary with the step
op = partial(op_of_any_domain, domain="crf")
KERAS = "engine='keras' can"
GOLD = "take the sequence_score of its tags instead"
NO_MASK, NO_TAGS = np.zeros((0, 0), bool), np.zeros((0, 0), "int32")
WORKSPACE_SIZE = {
    dtype: function_of(f"fastkeras_crf_workspace_{dtype}", c_int64, c_int64, c_int64, c_int64)
    for dtype in ("float32", "float64")
}


def _numbers_of(*quantities):
    """The numbers of these quantities in the compiled library, `kQuantities` in csrc/crf/crf.h."""
    name_of = function_of("fastkeras_crf_quantity", c_char_p, c_int)
    numbers = {name_of(number): number for number in range(len(quantities))}
    return [numbers[quantity.encode()] for quantity in quantities]


LOG_PARTITION, SEQUENCE_SCORE, LOG_LIKELIHOOD = _numbers_of(
    "log_partition", "sequence_score", "log_likelihood"
)


def log_partition(chain):
    return answer(_value, chain, quantity=LOG_PARTITION, more=[NO_TAGS])


def sequence_score(chain, tags):
    return answer(_value, chain, tags, quantity=SEQUENCE_SCORE)


def log_likelihood(chain, tags):
    return answer(_value, chain, tags, quantity=LOG_LIKELIHOOD)


def log_likelihood_and_gradients(chain, tags, weights):
    value, *gradients = answer(_value_and_gradients, chain, tags, more=[weights])
    return value, Gradients(*gradients)


def weighted_log_likelihood(chain, tags, weights):
    return answer(_weighted_value, chain, tags, more=[weights])


def entropy(chain):
    return answer(_entropy, chain)


def entropy_and_gradients(chain, weights):
    value, *gradients = answer(_entropy_and_gradients, chain, more=[weights])
    return value, Gradients(*gradients)


def marginals(chain):
    return answer(_marginals, chain)


def viterbi(chain):
    return answer(_viterbi, chain)


def sample(chain, uniforms):
    return answer(_sample, chain, more=[uniforms])


def k_best(chain, k):
    return answer(_k_best, chain, k=k)


def answer(function, chain, tags=None, more=(), **attributes):
    """Call a function with the six inputs that every kernel begins with, the tags, and `more`."""
    mask = NO_MASK if chain.mask is None else chain.mask
    inputs = (*chain.scores, chain.lengths, mask, *(() if tags is None else (tags,)), *more)
    if chain.family == "numpy":
        return on_numpy_arrays(function, *inputs, **attributes)
    if chain.family == "jax":  # on a GPU, the host would have to wait
        check_values(chain, tags)  # an error from the kernel would come late, and be no ValueError
    return function(*inputs, **attributes)


_gradient = op(
    "fastkeras_crf_gradient",
    lambda x, a, start, end, *_, quantity: tuple(
        ShapeDtypeStruct(scores.shape, scores.dtype) for scores in (x, a, start, end)
    ),
    "the gradient of a CRF",
    KERAS,
)


def workspace_size(x):
    """How many numbers the gradient keeps of the value's computation, for these emissions."""
    return WORKSPACE_SIZE[x.dtype.name](*x.shape)


def _value_and_workspace_shapes(x, *_, quantity, keep_workspace):
    size = workspace_size(x) if keep_workspace else 0
    return ShapeDtypeStruct(x.shape[:1], x.dtype), ShapeDtypeStruct((size,), x.dtype)


_value_and_workspace = op(
    "fastkeras_crf_value", _value_and_workspace_shapes, "the gradient of a CRF", KERAS
)


def _value_alone(attributes, *inputs):
    return _value_and_workspace(*inputs, **dict(attributes), keep_workspace=False)[0]


def _forward(attributes, *inputs):
    value, workspace = _value_and_workspace(*inputs, **dict(attributes), keep_workspace=True)
    return value, (inputs, value, workspace)


def _backward(attributes, kept, weights):
    inputs, value, workspace = kept
    gradients = _gradient(*inputs, value, workspace, weights, **dict(attributes))
    return *gradients, None, None, None


_value = differentiable(_value_alone, _forward, _backward)


def _value_and_gradients(*inputs_and_weights):
    *inputs, weights = inputs_and_weights
    attributes = (("quantity", LOG_LIKELIHOOD),)
    value, kept = _forward(attributes, *inputs)
    return value, *_backward(attributes, kept, weights)[:4]


def _weighted_value_shapes(x, *_, keep_workspace):
    batch, steps, _ = x.shape
    size = workspace_size(x) + batch * steps if keep_workspace else 0  # csrc/crf/weighted.cc
    return tuple(ShapeDtypeStruct(shape, x.dtype) for shape in ((batch,), (batch, steps), (size,)))


_weighted_value_and_workspace = op(
    "fastkeras_crf_weighted_value", _weighted_value_shapes, "the gradient of a CRF", KERAS
)
_weighted_gradient = op(
    "fastkeras_crf_weighted_gradient",
    lambda x, a, start, end, *_: tuple(
        ShapeDtypeStruct(scores.shape, scores.dtype) for scores in (x, a, start, end)
    ),
    "the gradient of a CRF",
    KERAS,
)


def _weighted_value_alone(attributes, *inputs):
    return _weighted_value_and_workspace(*inputs, keep_workspace=False)[0]


def _weighted_forward(attributes, *inputs):
    value, log_p, workspace = _weighted_value_and_workspace(*inputs, keep_workspace=True)
    return value, (inputs, value, log_p, workspace)


def _weighted_backward(attributes, kept, factors):
    inputs, value, log_p, workspace = kept
    gradients = _weighted_gradient(*inputs, value, workspace, factors)
    of_sequences = factors[:, None]
    d_weights = jnp.where(of_sequences == 0, 0, of_sequences * log_p)
    return *gradients, None, None, None, d_weights


_weighted_value = differentiable(_weighted_value_alone, _weighted_forward, _weighted_backward)


def _entropy_shapes(x, *_, keep_workspace):
    batch, steps, num_tags = x.shape
    size = workspace_size(x) + 2 * batch * steps * num_tags if keep_workspace else 0
    return tuple(ShapeDtypeStruct(shape, x.dtype) for shape in ((batch,), (size,)))


_entropy_and_workspace = op(
    "fastkeras_crf_entropy", _entropy_shapes, "the gradient of an entropy", KERAS
)
_entropy_gradient = op(
    "fastkeras_crf_entropy_gradient",
    lambda x, a, start, end, *_: tuple(
        ShapeDtypeStruct(scores.shape, scores.dtype) for scores in (x, a, start, end)
    ),
    "the gradient of an entropy",
    KERAS,
)


def _entropy_alone(attributes, *inputs):
    return _entropy_and_workspace(*inputs, keep_workspace=False)[0]


def _entropy_forward(attributes, *inputs):
    value, workspace = _entropy_and_workspace(*inputs, keep_workspace=True)
    return value, (inputs, value, workspace)


def _entropy_backward(attributes, kept, weights):
    inputs, value, workspace = kept
    return *_entropy_gradient(*inputs, value, workspace, weights), None, None


_entropy = differentiable(_entropy_alone, _entropy_forward, _entropy_backward)


def _entropy_and_gradients(*inputs_and_weights):
    *inputs, weights = inputs_and_weights
    value, kept = _entropy_forward((), *inputs)
    return value, *_entropy_backward((), kept, weights)[:4]


_marginals = op(
    "fastkeras_crf_marginals",
    lambda x, a, *_: (
        ShapeDtypeStruct(x.shape, x.dtype),
        ShapeDtypeStruct(a.shape if a.ndim == 4 else (x.shape[0], *a.shape), x.dtype),
    ),
    "marginals",
    KERAS,
)
_viterbi = op(
    "fastkeras_crf_viterbi",
    lambda x, *_: (
        ShapeDtypeStruct(x.shape[:2], "int32"),
        ShapeDtypeStruct(x.shape[:1], x.dtype),
    ),
    "the score of viterbi",
    GOLD,
)
_sample = op(
    "fastkeras_crf_sample",
    lambda *inputs: ShapeDtypeStruct(inputs[-1].shape, "int32"),
    "samples",
    KERAS,
)
_k_best = op(
    "fastkeras_crf_k_best",
    lambda x, *_, k: (
        ShapeDtypeStruct((x.shape[0], k, x.shape[1]), "int32"),
        ShapeDtypeStruct((x.shape[0], k), x.dtype),
    ),
    "the scores of k_best",
    GOLD,
)
