"""The CUDA kernels as calls of XLA, for JAX arrays on a GPU, eagerly and in compiled programs.

The functions are those of jax_native.py, whose calls run on whichever platform their program is
compiled for. The host never waits for the GPU, so tags and lengths are not checked: a sequence with
a tag out of range has NaN results, and lengths are clipped to the number of steps.
"""

from fastkeras._ops.jax_cuda import for_numpy
from fastkeras.crf._engines import jax_native
from fastkeras.crf._engines.cupy import host
from fastkeras.crf._engines.jax_native import LOG_PARTITION, SEQUENCE_SCORE
from fastkeras.crf.chain import Chain

log_partition = for_numpy(jax_native.log_partition)
sequence_score = for_numpy(jax_native.sequence_score)
log_likelihood = for_numpy(jax_native.log_likelihood)
log_likelihood_and_gradients = for_numpy(jax_native.log_likelihood_and_gradients)
marginals = for_numpy(jax_native.marginals)
viterbi = for_numpy(jax_native.viterbi)
sample = for_numpy(jax_native.sample)
k_best = for_numpy(jax_native.k_best)


def _chain_of(inputs):
    """The chain of the inputs that every call begins with."""
    x, transitions, start, end, lengths, mask = inputs[:6]
    return Chain(x, transitions, lengths, mask if mask.bytes else None, start, end)


def _value(device, *inputs, quantity, keep_workspace):
    chain, tags = _chain_of(inputs), inputs[6]
    if quantity == LOG_PARTITION:
        value = host.log_partition(device, chain)
    elif quantity == SEQUENCE_SCORE:
        value = host.sequence_score(device, chain, tags)
    else:
        value = host.log_likelihood(device, chain, tags)
    workspace = jax_native.workspace_size(chain.emissions) if keep_workspace else 0
    return value, device.empty((workspace,), value.dtype)  # for CPUs; here it is not written


def _gradient(device, *inputs, quantity):
    chain, tags, weights = _chain_of(inputs), inputs[6], inputs[9]
    if quantity == LOG_PARTITION:
        gradients = host.gradients_of_log_partition(device, chain, weights)
    elif quantity == SEQUENCE_SCORE:
        gradients = host.gradients_of_sequence_score(device, chain, tags, weights)
    else:
        gradients = host.gradients_of_log_likelihood(device, chain, tags, weights)
    return gradients


KERNELS = {
    "fastkeras_crf_value": _value,
    "fastkeras_crf_gradient": _gradient,
    "fastkeras_crf_marginals": lambda device, *inputs: host.marginals(device, _chain_of(inputs)),
    "fastkeras_crf_viterbi": lambda device, *inputs: host.viterbi(device, _chain_of(inputs)),
    "fastkeras_crf_sample": lambda device, *inputs: (
        host.sample(device, _chain_of(inputs), inputs[6]),
    ),
    "fastkeras_crf_k_best": lambda device, *inputs, k: host.k_best(device, _chain_of(inputs), k),
}
