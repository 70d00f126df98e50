"""The CUDA kernels as torch ops: CUDA tensors, on torch's current stream.

The host never waits for the GPU, so tags and lengths are not checked: a sequence with a tag out of
range has NaN results, and lengths are clipped to the number of steps.
"""

from fastkeras._ops.torch_cuda import for_numpy, on_cuda
from fastkeras.crf._engines import torch_ops
from fastkeras.crf._engines.cupy import host
from fastkeras.crf._engines.torch_ops import LOG_PARTITION, SEQUENCE_SCORE
from fastkeras.crf.chain import Chain

log_partition = for_numpy(torch_ops.log_partition)
sequence_score = for_numpy(torch_ops.sequence_score)
log_likelihood = for_numpy(torch_ops.log_likelihood)
log_likelihood_and_gradients = for_numpy(torch_ops.log_likelihood_and_gradients)
marginals = for_numpy(torch_ops.marginals)
viterbi = for_numpy(torch_ops.viterbi)
sample = for_numpy(torch_ops.sample)
k_best = for_numpy(torch_ops.k_best)


def _value(device, *inputs):
    *chain, tags, quantity, _ = inputs
    chain = Chain(*chain)
    if quantity == LOG_PARTITION:
        value = host.log_partition(device, chain)
    elif quantity == SEQUENCE_SCORE:
        value = host.sequence_score(device, chain, tags)
    else:
        value = host.log_likelihood(device, chain, tags)
    return value, device.empty((0,), host.dtype_of(value))


def _gradient(device, *inputs):
    *chain, tags, _, _, weights, quantity = inputs
    chain = Chain(*chain)
    if quantity == LOG_PARTITION:
        return host.gradients_of_log_partition(device, chain, weights)
    if quantity == SEQUENCE_SCORE:
        return host.gradients_of_sequence_score(device, chain, tags, weights)
    return host.gradients_of_log_likelihood(device, chain, tags, weights)


def _value_and_gradient(device, *inputs):
    *chain, tags, weights, _ = inputs
    return host.log_likelihood_and_gradients(device, Chain(*chain), tags, weights)


def _of(function):
    """An op's kernel of a host's function of a chain and at most one more input."""
    return lambda device, *inputs: function(device, Chain(*inputs[:6]), *inputs[6:])


KERNELS = {
    name: on_cuda(name, function)
    for name, function in {
        "crf_value": _value,
        "crf_gradient": _gradient,
        "crf_value_and_gradient": _value_and_gradient,
        "crf_marginals": _of(host.marginals),
        "crf_viterbi": _of(host.viterbi),
        "crf_sample": _of(host.sample),
        "crf_k_best": _of(host.k_best),
    }.items()
}
