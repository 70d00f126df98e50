"""The C++ kernels as torch ops: CPU tensors, in eager mode, torch.compile and torch.func.

The values are differentiable once, with respect to all scores.
"""

import numpy as np
import torch

from fastkeras import _core
from fastkeras._ops.torch import op
from fastkeras.crf._engines.torch_native import NUMBERS
from fastkeras.crf._engines.torch_ops import (
    CHAIN,
    CHAIN_AXES,
    LOG_LIKELIHOOD,
    LOG_PARTITION,
    SEQUENCE_SCORE,
    answer,
)

SECOND_ORDER = f"{CHAIN}, Tensor triples"  # the inputs that every op begins with
AXES = (*CHAIN_AXES, None)


def log_partition(chain, triples, allowed):
    no_tags = chain.lengths  # never read, but of the right type
    return answer(_value, chain, triples, no_tags, LOG_PARTITION)


def sequence_score(chain, tags, triples, allowed):
    return answer(_value, chain, triples, tags, SEQUENCE_SCORE)


def log_likelihood(chain, tags, triples, allowed):
    return answer(_value, chain, triples, tags, LOG_LIKELIHOOD)


def marginals(chain, triples, allowed):
    return answer(_marginals, chain, triples)


def viterbi(chain, triples, allowed):
    return answer(_viterbi, chain, triples)


def _value(*inputs):
    """The value; if it may be differentiated, the op also keeps the workspace of the recursion."""
    scores = inputs[0], inputs[1], inputs[4], inputs[5], inputs[6]
    keep_workspace = torch.is_grad_enabled() and any(x.requires_grad for x in scores)
    return _value_and_workspace(*inputs, keep_workspace)[0]


def _workspace_size(batch, steps, num_tags):
    """As `SecondOrderWorkspaceSize` in csrc/crf/second_order."""
    return batch * ((steps + 5) // 8 * num_tags * num_tags + steps + 2)


def _value_shapes(x, *more):
    size = _workspace_size(*x.shape) if more[-1] else 0
    return x.new_empty(x.shape[:1]), x.new_empty(size)


def _value_and_gradient(inputs, weights, quantity, num_threads):
    value, workspace = _core.second_order_value(*inputs, quantity, True, num_threads)
    more = value, workspace, weights, quantity, num_threads
    return _core.second_order_gradient(*inputs, *more)


@op(
    f"second_order_gradient({SECOND_ORDER}, Tensor tags, Tensor value, Tensor workspace, "
    "Tensor weights, int quantity) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    like=lambda x, a, lengths, mask, start, end, triples, *_: tuple(
        y.new_empty(y.shape) for y in (x, a, start, end, triples)
    ),
    batch_axes=(*AXES, 0, 0, None, 0, None),
    result_axes=None,
    not_differentiable="the gradient of a second-order CRF: engine='keras' can",
)
def _gradient(*inputs, num_threads):
    *of_value, value, workspace, weights, quantity = inputs
    number = NUMBERS[quantity]
    if not workspace.size:  # under vmap, or a gradient was not expected when the value was computed
        return _value_and_gradient(of_value, weights, number, num_threads)
    return _core.second_order_gradient(*of_value, value, workspace, weights, number, num_threads)


def _gradient_of_value(*inputs):
    *of_value, quantity, _, value, workspace, weights = inputs
    gradients = _gradient(*of_value, value, workspace, weights, quantity)
    d_x, d_transitions, d_start, d_end, d_triples = gradients
    return d_x, d_transitions, None, None, d_start, d_end, d_triples, None, None, None


@op(
    f"second_order_value({SECOND_ORDER}, Tensor tags, int quantity, bool keep_workspace) "
    "-> (Tensor, Tensor)",
    like=_value_shapes,
    batch_axes=(*AXES, 0, None, None),
    result_axes=(0, None),
    backward=_gradient_of_value,
    keeps=(0, 1),
)
def _value_and_workspace(*inputs, num_threads):
    *of_value, quantity, keep = inputs
    value, workspace = _core.second_order_value(*of_value, NUMBERS[quantity], keep, num_threads)
    return value, workspace if keep else np.empty(0, value.dtype)


@op(
    f"second_order_marginals({SECOND_ORDER}) -> (Tensor, Tensor)",
    like=lambda x, a, *_: (x.new_empty(x.shape), x.new_empty((x.shape[0], *a.shape))),
    batch_axes=AXES,
    result_axes=(0, 0),
    not_differentiable="marginals: engine='keras' can",
)
def _marginals(*inputs, num_threads):
    return _core.second_order_marginals(*inputs, num_threads)


@op(
    f"second_order_viterbi({SECOND_ORDER}) -> (Tensor, Tensor)",
    like=lambda x, *_: (x.new_empty(x.shape[:2], dtype=torch.int32), x.new_empty(x.shape[:1])),
    batch_axes=AXES,
    result_axes=(0, 0),
    not_differentiable="the score of viterbi: take the sequence_score of its tags instead",
)
def _viterbi(*inputs, num_threads):
    return _core.second_order_viterbi(*inputs, num_threads)
