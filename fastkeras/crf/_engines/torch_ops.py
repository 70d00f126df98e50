"""The functions of the torch engines: ops whose kernels are in torch_native.py and torch_cuda.py.

They work eagerly, under torch.compile and torch.export, and under torch.func; the values are
differentiable once, with respect to all scores.
"""

import numpy as np
import torch

from fastkeras._ops.torch import define
from fastkeras.crf.chain import Gradients

QUANTITIES = ("log_partition", "sequence_score", "log_likelihood")
LOG_PARTITION, SEQUENCE_SCORE, LOG_LIKELIHOOD = range(3)
CHAIN = (  # the inputs that every op begins with, in the order of a `Chain`
    "Tensor emissions, Tensor transitions, Tensor lengths, Tensor? mask, "
    "Tensor start_transitions, Tensor end_transitions"
)
CHAIN_AXES = (0, None, 0, 0, None, None)  # the axis of the batch in each of them


def chain_axes(*more):
    """The axes of an op's inputs; transitions have one if they vary."""

    def axes(dims, inputs):
        varies = inputs[1].dim() - (dims[1] is not None) == 4
        return (0, 0, *CHAIN_AXES[2:], *more) if varies else (*CHAIN_AXES, *more)

    return axes


def log_partition(chain):
    no_tags = chain.lengths  # never read, but of the right type
    return answer(_value, chain, no_tags, LOG_PARTITION)


def sequence_score(chain, tags):
    return answer(_value, chain, tags, SEQUENCE_SCORE)


def log_likelihood(chain, tags):
    return answer(_value, chain, tags, LOG_LIKELIHOOD)


def log_likelihood_and_gradients(chain, tags, weights):
    value, *gradients = answer(_value_and_gradient, chain, tags, weights, LOG_LIKELIHOOD)
    return value, Gradients(*gradients)


def weighted_log_likelihood(chain, tags, weights):
    return answer(_weighted_value, chain, tags, weights)


def entropy(chain):
    return answer(_entropy, chain)


def entropy_and_gradients(chain, weights):
    value, *gradients = answer(_entropy_and_gradients, chain, weights)
    return value, Gradients(*gradients)


def marginals(chain):
    return answer(_marginals, chain)


def viterbi(chain):
    return answer(_viterbi, chain)


def sample(chain, uniforms):
    return answer(_sample, chain, uniforms)


def k_best(chain, k):
    return answer(_k_best, chain, k)


def answer(function, chain, *more):
    """Call an op with the parts of a chain; for NumPy arrays, return NumPy arrays."""
    if chain.family != "numpy":
        return function(*chain, *more)
    tensors = (torch.tensor(x) if isinstance(x, np.ndarray) else x for x in (*chain, *more))
    results = function(*tensors)
    if isinstance(results, tuple):
        return tuple(result.numpy() for result in results)
    return results.numpy()


def _value(*inputs):
    """The value; if it may be differentiated, the op also keeps the workspace of the recursion."""
    scores = inputs[0], inputs[1], inputs[4], inputs[5]
    keep_workspace = torch.is_grad_enabled() and any(x.requires_grad for x in scores)
    return _value_and_workspace(*inputs, keep_workspace)[0]


def _weighted_value(*inputs):
    differentiable = inputs[0], inputs[1], inputs[4], inputs[5], inputs[7]
    keep_workspace = torch.is_grad_enabled() and any(x.requires_grad for x in differentiable)
    return _weighted_value_and_workspace(*inputs, keep_workspace)[0]


def _entropy(*chain):
    scores = chain[0], chain[1], chain[4], chain[5]
    keep_workspace = torch.is_grad_enabled() and any(x.requires_grad for x in scores)
    return _entropy_and_workspace(*chain, keep_workspace)[0]


def _entropy_and_gradients(*inputs):
    *chain, weights = inputs
    value, workspace = _entropy_and_workspace(*chain, True)
    return value, *_entropy_gradient(*chain, value, workspace, weights)


def _gradient_shapes(x, a, lengths, mask, start, end, *_):
    return tuple(y.new_empty(y.shape) for y in (x, a, start, end))


def _value_shapes(x, *more):
    batch, steps, num_tags = x.shape
    keep_workspace = more[-1] and x.device.type != "cuda"  # on GPUs, the gradient needs none
    size = batch * steps * (2 * num_tags + 1) + batch if keep_workspace else 0  # csrc/crf/crf.cc
    return x.new_empty(batch), x.new_empty(size)


_gradient = define(
    f"crf_gradient({CHAIN}, Tensor tags, Tensor value, Tensor workspace, Tensor weights, "
    "int quantity) -> (Tensor, Tensor, Tensor, Tensor)",
    like=_gradient_shapes,
    batch_axes=chain_axes(0, 0, None, 0, None),
    result_axes=None,
    not_differentiable="the gradient of a CRF: engine='keras' can",
)

_value_and_gradient = define(
    f"crf_value_and_gradient({CHAIN}, Tensor tags, Tensor weights, int quantity) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
    like=lambda x, *more: (x.new_empty(x.shape[:1]), *_gradient_shapes(x, *more)),
    batch_axes=chain_axes(0, 0, None),
    result_axes=None,
    not_differentiable="the gradient of a CRF: engine='keras' can",
)


def _gradient_of_value(*inputs):
    *chain_and_tags, quantity, _, value, workspace, weights = inputs
    d_x, d_transitions, d_start, d_end = _gradient(
        *chain_and_tags, value, workspace, weights, quantity
    )
    return d_x, d_transitions, None, None, d_start, d_end, None, None, None


_value_and_workspace = define(
    f"crf_value({CHAIN}, Tensor tags, int quantity, bool keep_workspace) -> (Tensor, Tensor)",
    like=_value_shapes,
    batch_axes=chain_axes(0, None, None),
    result_axes=(0, None),
    backward=_gradient_of_value,
    keeps=(0, 1),
)

_weighted_gradient = define(
    f"crf_weighted_gradient({CHAIN}, Tensor tags, Tensor weights, Tensor value, Tensor workspace, "
    "Tensor factors) -> (Tensor, Tensor, Tensor, Tensor)",
    like=_gradient_shapes,
    batch_axes=chain_axes(0, 0, 0, None, 0),
    result_axes=None,
    not_differentiable="the gradient of a CRF: engine='keras' can",
)


def _gradient_of_weighted_value(*inputs):
    *arguments, _, value, log_p, workspace, factors = inputs
    d_x, d_transitions, d_start, d_end = _weighted_gradient(*arguments, value, workspace, factors)
    of_sequences = factors[:, None]
    d_weights = torch.where(of_sequences == 0, 0, of_sequences * log_p)
    return d_x, d_transitions, None, None, d_start, d_end, None, d_weights, None


def _weighted_value_shapes(x, *more):
    batch, steps, num_tags = x.shape
    size = batch * steps * (2 * num_tags + 2) + batch if more[-1] else 0  # csrc/crf/weighted.cc
    return x.new_empty(batch), x.new_empty((batch, steps)), x.new_empty(size)


_weighted_value_and_workspace = define(
    f"crf_weighted_value({CHAIN}, Tensor tags, Tensor weights, bool keep_workspace) -> "
    "(Tensor, Tensor, Tensor)",
    like=_weighted_value_shapes,
    batch_axes=chain_axes(0, 0, None),
    result_axes=(0, 0, None),
    backward=_gradient_of_weighted_value,
    keeps=(0, 1, 2),
)

_entropy_gradient = define(
    f"crf_entropy_gradient({CHAIN}, Tensor value, Tensor workspace, Tensor weights) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
    like=_gradient_shapes,
    batch_axes=chain_axes(0, None, 0),
    result_axes=None,
    not_differentiable="the gradient of an entropy: engine='keras' can",
)


def _gradient_of_entropy(*inputs):
    *chain, _, value, workspace, weights = inputs
    d_x, d_transitions, d_start, d_end = _entropy_gradient(*chain, value, workspace, weights)
    return d_x, d_transitions, None, None, d_start, d_end, None


def _entropy_shapes(x, *more):
    batch, steps, num_tags = x.shape
    size = batch * steps * (4 * num_tags + 1) + batch if more[-1] else 0  # csrc/crf/entropy.cc
    return x.new_empty(batch), x.new_empty(size)


_entropy_and_workspace = define(
    f"crf_entropy({CHAIN}, bool keep_workspace) -> (Tensor, Tensor)",
    like=_entropy_shapes,
    batch_axes=chain_axes(None),
    result_axes=(0, None),
    backward=_gradient_of_entropy,
    keeps=(0, 1),
)

_marginals = define(
    f"crf_marginals({CHAIN}) -> (Tensor, Tensor)",
    like=lambda x, a, *_: (x.new_empty(x.shape), x.new_empty(_shape_of_counts(x, a))),
    batch_axes=chain_axes(),
    result_axes=(0, 0),
    not_differentiable="marginals: engine='keras' can",
)

_viterbi = define(
    f"crf_viterbi({CHAIN}) -> (Tensor, Tensor)",
    like=lambda x, *_: (x.new_empty(x.shape[:2], dtype=torch.int32), x.new_empty(x.shape[:1])),
    batch_axes=chain_axes(),
    result_axes=(0, 0),
    not_differentiable="the score of viterbi: take the sequence_score of its tags instead",
)

_sample = define(
    f"crf_sample({CHAIN}, Tensor uniforms) -> Tensor",
    like=lambda *inputs: torch.empty(inputs[-1].shape, dtype=torch.int32, device=inputs[-1].device),
    batch_axes=chain_axes(1),
    result_axes=(1,),
    not_differentiable="samples",
)

_k_best = define(
    f"crf_k_best({CHAIN}, int k) -> (Tensor, Tensor)",
    like=lambda x, *more: _shapes_of_k_best(x, more[-1]),
    batch_axes=chain_axes(None),
    result_axes=(0, 0),
    not_differentiable="the scores of k_best: take the sequence_score of its tags instead",
)


def _shape_of_counts(x, a):
    return a.shape if a.dim() == 4 else (x.shape[0], *a.shape)


def _shapes_of_k_best(x, k):
    batch, steps = x.shape[:2]
    return x.new_empty((batch, k, steps), dtype=torch.int32), x.new_empty((batch, k))
