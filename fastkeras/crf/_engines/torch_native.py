"""The C++ kernels as torch ops: CPU tensors, whose memory is shared and never copied.

Eager, under torch.compile and torch.export, and under torch.func; the values are differentiable
once, with respect to all scores.
"""

import numpy as np
import torch

from fastkeras import _core
from fastkeras._core import CRF_QUANTITIES
from fastkeras._ops.torch import op
from fastkeras.crf.chain import Gradients

LOG_PARTITION, SEQUENCE_SCORE, LOG_LIKELIHOOD = map(
    CRF_QUANTITIES.index, ("log_partition", "sequence_score", "log_likelihood")
)
CHAIN = (  # the inputs that every op begins with, in the order of a `Chain`
    "Tensor emissions, Tensor transitions, Tensor lengths, Tensor? mask, "
    "Tensor start_transitions, Tensor end_transitions"
)


def log_partition(chain):
    no_tags = chain.lengths  # of the right type, and not read
    return answer(_value, chain, no_tags, LOG_PARTITION)


def sequence_score(chain, tags):
    return answer(_value, chain, tags, SEQUENCE_SCORE)


def log_likelihood(chain, tags):
    return answer(_value, chain, tags, LOG_LIKELIHOOD)


def log_likelihood_and_gradients(chain, tags, weights):
    gradients = answer(_gradient, chain, tags, weights, LOG_LIKELIHOOD)
    return log_likelihood(chain, tags), Gradients(*gradients)


def marginals(chain):
    return answer(_marginals, chain)


def viterbi(chain):
    return answer(_viterbi, chain)


def sample(chain, uniforms):
    return answer(_sample, chain, uniforms)


def k_best(chain, k):
    return answer(_k_best, chain, k)


def answer(function, chain, *more):
    """Call an op with the parts of a chain; NumPy arrays get NumPy arrays."""
    if chain.family != "numpy":
        return function(*chain, *more)
    tensors = (torch.tensor(x) if isinstance(x, np.ndarray) else x for x in (*chain, *more))
    results = function(*tensors)
    if isinstance(results, tuple):
        return tuple(result.numpy() for result in results)
    return results.numpy()


@op(
    "fastkeras::crf_gradient",
    like=lambda x, a, lengths, mask, s, f, *_: tuple(y.new_empty(y.shape) for y in (x, a, s, f)),
    schema=f"({CHAIN}, Tensor tags, Tensor weights, int quantity) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
    not_differentiable="the gradient of a CRF: engine='keras' can",
)
def _gradient(emissions, *more):
    *others, tags, weights, quantity = more
    return _core.crf_value_and_gradient(emissions, tags, *others, weights, quantity)[1:]


def _gradient_of_value(*inputs):
    *chain_and_tags, quantity, weights = inputs
    d_x, d_transitions, d_start, d_end = _gradient(*chain_and_tags, weights, quantity)
    return d_x, d_transitions, None, None, d_start, d_end, None, None


@op(
    "fastkeras::crf_value",
    like=lambda x, *_: x.new_empty(x.shape[:1]),
    schema=f"({CHAIN}, Tensor tags, int quantity) -> Tensor",
    backward=_gradient_of_value,
)
def _value(emissions, *more):
    *others, tags, quantity = more
    return _core.crf_value(emissions, tags, *others, quantity)


_marginals = op(
    "fastkeras::crf_marginals",
    like=lambda x, a, *_: (x.new_empty(x.shape), x.new_empty((x.shape[0], *a.shape))),
    schema=f"({CHAIN}) -> (Tensor, Tensor)",
    not_differentiable="marginals: engine='keras' can",
)(_core.crf_marginals)

_viterbi = op(
    "fastkeras::crf_viterbi",
    like=lambda x, *_: (x.new_empty(x.shape[:2], dtype=torch.int32), x.new_empty(x.shape[:1])),
    schema=f"({CHAIN}) -> (Tensor, Tensor)",
    not_differentiable="the score of viterbi: take the sequence_score of its tags instead",
)(_core.crf_viterbi)

_sample = op(
    "fastkeras::crf_sample",
    like=lambda *inputs: torch.empty(inputs[-1].shape, dtype=torch.int32, device=inputs[-1].device),
    schema=f"({CHAIN}, Tensor uniforms) -> Tensor",
    not_differentiable="samples",
)(_core.crf_sample)

_k_best = op(
    "fastkeras::crf_k_best",
    like=lambda x, *more: _shapes_of_k_best(x, more[-1]),
    schema=f"({CHAIN}, int k) -> (Tensor, Tensor)",
    not_differentiable="the scores of k_best: take the sequence_score of its tags instead",
)(_core.crf_k_best)


def _shapes_of_k_best(x, k):
    batch, steps = x.shape[:2]
    return x.new_empty((batch, k, steps), dtype=torch.int32), x.new_empty((batch, k))
