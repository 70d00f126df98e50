"""CUDA kernels on arrays of CuPy, on the current stream; the host never waits for them.

Tags and lengths are not checked, since the host does not see them: a sequence with a tag out of
range has NaN results, and lengths are clipped to the number of steps.
"""

import cupy

from fastkeras._ops import cupy as device
from fastkeras.crf._engines.cupy import host
from fastkeras.crf.chain import Chain, Gradients


def log_partition(chain):
    return _answer(host.log_partition, chain)


def sequence_score(chain, tags):
    return _answer(host.sequence_score, chain, tags)


def log_likelihood(chain, tags):
    return _answer(host.log_likelihood, chain, tags)


def log_likelihood_and_gradients(chain, tags, weights):
    likelihood, *gradients = _answer(host.log_likelihood_and_gradients, chain, tags, weights)
    return likelihood, Gradients(*gradients)


def marginals(chain):
    return _answer(host.marginals, chain)


def viterbi(chain):
    return _answer(host.viterbi, chain)


def sample(chain, uniforms):
    return _answer(host.sample, chain, uniforms)


def k_best(chain, k):
    return _answer(host.k_best, chain, k=k)


def _answer(function, chain, *more, **numbers):
    """The results of a function of the host; NumPy arrays for a chain of NumPy arrays."""
    if chain.family != "numpy":
        return function(device, chain, *map(cupy.ascontiguousarray, more), **numbers)
    chain = Chain(*(None if x is None else cupy.asarray(x) for x in chain))
    results = function(device, chain, *map(cupy.asarray, more), **numbers)
    return (
        tuple(map(cupy.asnumpy, results)) if isinstance(results, tuple) else cupy.asnumpy(results)
    )
