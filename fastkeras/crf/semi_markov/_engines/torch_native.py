"""The C++ kernels as torch ops: CPU tensors, in eager mode, torch.compile and torch.func.

log Z is differentiable once, with respect to all scores.
"""

import torch

from fastkeras import _core
from fastkeras._ops.torch import op
from fastkeras.crf._engines.torch_ops import CHAIN, CHAIN_AXES, answer


def log_partition(chain, durations):
    return answer(_log_partition, chain, durations)


def marginals(chain, durations):
    return answer(_marginals, chain, durations)


def viterbi(chain, durations):
    return answer(_viterbi, chain, durations)


@op(
    f"semi_markov_marginals({CHAIN}, Tensor durations) -> (Tensor, Tensor, Tensor)",
    like=lambda x, *more: tuple(x.new_empty(shape) for shape in _shapes(x, more[-1])),
    batch_axes=(*CHAIN_AXES, None),
    result_axes=(0, 0, 0),
    not_differentiable="marginals: engine='keras' can",
)
def _marginals(*inputs, num_threads):
    return _core.semi_markov_marginals(*_of_segments(*inputs), num_threads)


def _of_segments(x, transitions, lengths, mask, start, end, durations):
    """The inputs in the order of the semi-Markov kernels, which take no mask."""
    return x, transitions, durations, lengths, start, end


def _shapes(x, durations):
    batch, steps, num_tags = x.shape
    segments = (batch, steps, durations.shape[0], num_tags)
    return (batch, steps, num_tags), segments, (batch, num_tags, num_tags)


def _gradients(x, transitions, lengths, mask, start, end, durations, weights):
    """The derivatives are the marginals; for start and end, those of the first and last step."""
    lengths = torch.where(weights != 0, lengths, 0)  # 0 times NaN would be NaN
    unary, segments, counts = _marginals(x, transitions, lengths, mask, start, end, durations)
    d_x = weights[:, None, None] * unary
    last = torch.arange(x.shape[1], device=x.device) == lengths[:, None] - 1  # none for length 0
    d_end = torch.where(last[..., None], d_x, 0).sum((0, 1))
    d_start = torch.einsum("b,btlj->j", weights, segments[:, :1])
    d_transitions = torch.einsum("b,bij->ij", weights, counts)
    d_durations = torch.einsum("b,btlj->lj", weights, segments)
    return d_x, d_transitions, None, None, d_start, d_end, d_durations


@op(
    f"semi_markov_log_partition({CHAIN}, Tensor durations) -> Tensor",
    like=lambda x, *_: x.new_empty(x.shape[:1]),
    batch_axes=(*CHAIN_AXES, None),
    result_axes=(0,),
    backward=_gradients,
)
def _log_partition(*inputs, num_threads):
    return _core.semi_markov_log_partition(*_of_segments(*inputs), num_threads)


@op(
    f"semi_markov_viterbi({CHAIN}, Tensor durations) -> (Tensor, Tensor, Tensor)",
    like=lambda x, *_: (
        x.new_empty(x.shape[:2], dtype=torch.int32),
        x.new_empty(x.shape[:2], dtype=torch.bool),
        x.new_empty(x.shape[:1]),
    ),
    batch_axes=(*CHAIN_AXES, None),
    result_axes=(0, 0, 0),
    not_differentiable="the score of viterbi: engine='keras' can",
)
def _viterbi(*inputs, num_threads):
    return _core.semi_markov_viterbi(*_of_segments(*inputs), num_threads)
