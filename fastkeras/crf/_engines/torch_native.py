"""The C++ kernels as torch ops: CPU tensors, whose memory is shared and never copied."""

import numpy as np

from fastkeras import _core
from fastkeras._ops.torch import on_cpu
from fastkeras.crf._engines.torch_ops import (  # noqa: F401
    LOG_LIKELIHOOD,
    QUANTITIES,
    entropy,
    entropy_and_gradients,
    k_best,
    log_likelihood,
    log_likelihood_and_gradients,
    log_partition,
    marginals,
    sample,
    sequence_score,
    viterbi,
    weighted_log_likelihood,
)

VARYING_TRANSITIONS = True  # this engine takes transitions that vary with the step
NUMBERS = [_core.CRF_QUANTITIES.index(quantity) for quantity in QUANTITIES]


def _value_and_workspace(emissions, *more, num_threads):
    *others, tags, quantity, keep_workspace = more
    inputs = emissions, tags, *others, NUMBERS[quantity], num_threads
    if keep_workspace:
        return _core.crf_value_and_workspace(*inputs)
    return _core.crf_value(*inputs), np.empty(0, emissions.dtype)


def _gradient(emissions, *more, num_threads):
    *others, tags, value, workspace, weights, quantity = more
    of_value = emissions, tags, *others
    quantity = NUMBERS[quantity]
    if not workspace.size:  # under vmap, or a gradient was not expected when the value was computed
        return _core.crf_value_and_gradient(*of_value, weights, quantity, num_threads)[1:]
    return _core.crf_gradient(*of_value, value, workspace, weights, quantity, num_threads)


def _value_and_gradient(emissions, *more, num_threads):
    *others, tags, weights, quantity = more
    inputs = emissions, tags, *others, weights, NUMBERS[quantity]
    return _core.crf_value_and_gradient(*inputs, num_threads)


def _weighted_gradient(*inputs, num_threads):
    *arguments, value, workspace, factors = inputs
    if not workspace.size:  # as in `_gradient`
        value, _, workspace = _core.crf_weighted_value(*arguments, True, num_threads)
    return _core.crf_weighted_gradient(*arguments, value, workspace, factors, num_threads)


def _entropy_gradient(*inputs, num_threads):
    *chain, value, workspace, weights = inputs
    if not workspace.size:  # as in `_gradient`
        value, workspace = _core.crf_entropy(*chain, True, num_threads)
    return _core.crf_entropy_gradient(*chain, value, workspace, weights, num_threads)


on_cpu("crf_value", _value_and_workspace)
on_cpu("crf_gradient", _gradient)
on_cpu("crf_value_and_gradient", _value_and_gradient)
on_cpu("crf_weighted_value", _core.crf_weighted_value)
on_cpu("crf_weighted_gradient", _weighted_gradient)
on_cpu("crf_entropy", _core.crf_entropy)
on_cpu("crf_entropy_gradient", _entropy_gradient)
for _name in ("crf_marginals", "crf_viterbi", "crf_sample", "crf_k_best"):
    on_cpu(_name, getattr(_core, _name))
