"""Compiled by Numba, parallel over the batch; for machines where no C++ could be compiled.

Computes in float64 whatever the dtype and rounds once at the end. Functions compile on first use.
"""

from threading import Lock

import numpy as np
from numba import njit, prange

from fastkeras.crf._engines.numba.paths import best_paths, draw_paths
from fastkeras.crf._engines.numba.recursions import (
    add_gradients,
    best_path,
    log_likelihood_of,
    log_partition_of,
    score_of,
    write_marginals,
)
from fastkeras.crf.chain import Gradients

# Sums over the batch are made in this many groups, which are then added in order. The number is
# constant so that the result does not depend on the number of threads.
GROUPS = 16

_one_call = Lock()  # Numba's own thread pool aborts the process if two Python threads enter it


def log_partition(chain):
    arguments = _compiled(chain)
    with _one_call:
        return _log_partition(*arguments)


def sequence_score(chain, tags):
    arguments = _compiled(chain)
    with _one_call:
        return _sequence_score(_own(tags), *arguments)


def log_likelihood(chain, tags):
    arguments = _compiled(chain)
    with _one_call:
        return _log_likelihood(_own(tags), *arguments)


def log_likelihood_and_gradients(chain, tags, weights):
    arguments = _compiled(chain)
    with _one_call:
        value, d_emissions, *shared = _gradients(_own(tags), *arguments, _own(weights, np.float64))
    return value, Gradients(
        d_emissions, *(_sum_in_order(part, chain.emissions.dtype) for part in shared)
    )


def marginals(chain):
    arguments = _compiled(chain)
    with _one_call:
        return _marginals(*arguments)


def viterbi(chain):
    arguments = _compiled(chain)
    with _one_call:
        return _viterbi(*arguments)


def sample(chain, uniforms):
    arguments = _compiled(chain)
    with _one_call:
        return _sample(*arguments, _own(uniforms, np.float64))


def k_best(chain, k):
    arguments = _compiled(chain)
    with _one_call:
        return _k_best(*arguments, k)


def _compiled(chain):
    """Return the arguments of the compiled functions, of few types, so that few are compiled."""
    transitions = _own(chain.transitions, np.float64)
    peak = transitions.max()
    peak = 0.0 if np.isneginf(peak) else peak if peak < np.inf else np.nan
    with np.errstate(under="ignore", invalid="ignore"):
        factors = np.exp(transitions - peak)
    scores = (transitions, factors, float(peak))
    boundaries = (
        _own(chain.start_transitions, np.float64),
        _own(chain.end_transitions, np.float64),
    )
    return _own(chain.emissions), _own(chain.valid_steps()), *scores, *boundaries


def _own(array, dtype=None):
    """Return the array contiguous and writeable: Numba would compile again for a read-only one."""
    return np.require(array, dtype, "CAW")


def _sum_in_order(parts, dtype):
    total = np.zeros(parts.shape[1:])
    for part in parts:
        total += part
    return total.astype(dtype)


# Each parallel loop holds just one call: anything more in it costs seconds of compilation.


@njit(cache=True, parallel=True)
def _log_partition(emissions, mask, transitions, factors, peak, start, end):
    log_z = np.zeros(len(emissions), emissions.dtype)
    for b in prange(len(emissions)):
        log_z[b] = log_partition_of(emissions[b], mask[b], transitions, factors, peak, start, end)
    return log_z


@njit(cache=True, parallel=True)
def _sequence_score(tags, emissions, mask, transitions, factors, peak, start, end):
    score = np.zeros(len(emissions), emissions.dtype)
    for b in prange(len(emissions)):
        score[b] = score_of(tags[b], emissions[b], mask[b], transitions, start, end)
    return score


@njit(cache=True, parallel=True)
def _log_likelihood(tags, emissions, mask, transitions, factors, peak, start, end):
    value = np.zeros(len(emissions), emissions.dtype)
    for b in prange(len(emissions)):
        value[b] = log_likelihood_of(
            tags[b], emissions[b], mask[b], transitions, factors, peak, start, end
        )
    return value


@njit(cache=True, parallel=True)
def _gradients(tags, emissions, mask, transitions, factors, peak, start, end, weights):
    batch, _, num_tags = emissions.shape
    groups = min(batch, GROUPS)
    value = np.zeros(batch, emissions.dtype)
    d_emissions = np.zeros_like(emissions)
    d_transitions = np.zeros((groups, num_tags, num_tags))
    d_start = np.zeros((groups, num_tags))
    d_end = np.zeros((groups, num_tags))
    for g in prange(groups):
        for b in range(batch * g // groups, batch * (g + 1) // groups):
            value[b] = add_gradients(
                tags[b],
                emissions[b],
                mask[b],
                transitions,
                factors,
                peak,
                start,
                end,
                weights[b],
                d_emissions[b],
                d_transitions[g],
                d_start[g],
                d_end[g],
            )
    return value, d_emissions, d_transitions, d_start, d_end


@njit(cache=True, parallel=True)
def _marginals(emissions, mask, transitions, factors, peak, start, end):
    batch, _, num_tags = emissions.shape
    unary = np.zeros_like(emissions)
    counts = np.zeros((batch, num_tags, num_tags), emissions.dtype)
    for b in prange(batch):
        write_marginals(
            emissions[b], mask[b], transitions, factors, peak, start, end, unary[b], counts[b]
        )
    return unary, counts


@njit(cache=True, parallel=True)
def _viterbi(emissions, mask, transitions, factors, peak, start, end):
    batch, steps, _ = emissions.shape
    tags = np.zeros((batch, steps), np.int32)
    score = np.zeros(batch, emissions.dtype)
    for b in prange(batch):
        score[b] = best_path(emissions[b], mask[b], transitions, peak, start, end, tags[b])
    return tags, score


@njit(cache=True, parallel=True)
def _sample(emissions, mask, transitions, factors, peak, start, end, uniforms):
    tags = np.zeros(uniforms.shape, np.int32)
    for b in prange(len(emissions)):
        draw_paths(
            emissions[b],
            mask[b],
            transitions,
            factors,
            peak,
            start,
            end,
            uniforms[:, b],
            tags[:, b],
        )
    return tags


@njit(cache=True, parallel=True)
def _k_best(emissions, mask, transitions, factors, peak, start, end, k):
    batch, steps, _ = emissions.shape
    tags = np.zeros((batch, k, steps), np.int32)
    scores = np.full((batch, k), -np.inf, emissions.dtype)
    for b in prange(batch):
        best_paths(emissions[b], mask[b], transitions, peak, start, end, tags[b], scores[b])
    return tags, scores
