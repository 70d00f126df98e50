"""The algorithm written to be read: one sequence and one step at a time, in log space.

alpha[t][i, j] is the log-sum of the scores of all prefixes that end in the tags i, j at the steps
t − 1, t; beta that of all suffixes that follow. Works in the dtype given.
"""

import numpy as np

from fastkeras.crf._engines import reference as first_order
from fastkeras.crf._engines.reference import _log_sum_exp, _nan_is_an_answer, _valid_steps


@_nan_is_an_answer
def log_partition(chain, triples, allowed):
    log_z = np.zeros(len(chain.emissions), chain.emissions.dtype)
    for b, steps in enumerate(_valid_steps(chain)):
        if len(steps):
            last = _prefixes(chain, triples, chain.emissions[b, steps], _log_sum_exp)[-1]
            log_z[b] = _log_sum_exp((last + chain.end_transitions).ravel())
    return log_z


@_nan_is_an_answer
def sequence_score(chain, tags, triples, allowed):
    score = first_order.sequence_score(chain, tags)
    for b, steps in enumerate(_valid_steps(chain)):
        path = tags[b, steps]
        score[b] += triples[path[:-2], path[1:-1], path[2:]].sum()
    return score


@_nan_is_an_answer
def log_likelihood(chain, tags, triples, allowed):
    score = sequence_score(chain, tags, triples, allowed)
    log_z = log_partition(chain, triples, allowed)
    impossible = np.isneginf(score) & ~np.isnan(log_z)
    return np.minimum(score - np.where(impossible, 0, log_z), 0)  # above 0 by rounding only


@_nan_is_an_answer
def marginals(chain, triples, allowed):
    unary = np.zeros_like(chain.emissions)
    counts = np.zeros((len(unary), *chain.transitions.shape), unary.dtype)
    for b, steps in enumerate(_valid_steps(chain)):
        if len(steps) == 0:
            continue
        x = chain.emissions[b, steps]
        alphas = _prefixes(chain, triples, x, _log_sum_exp)
        beta = np.zeros_like(chain.transitions) + chain.end_transitions
        for t in reversed(range(len(steps))):
            scores = alphas[t] + (beta if t else beta[:1])
            peak = scores.max()
            if np.isneginf(peak):
                break  # no sequence is possible
            p = np.exp(scores - peak)
            p /= p.sum()
            unary[b, steps[t]] = p.sum(axis=0)
            if t:
                counts[b] += p
            if t > 1:  # [i, j]: over all k that may follow
                after = chain.transitions + x[t] + beta  # [j, k]
                beta = _log_sum_exp(np.moveaxis(triples + after, 2, 0))
            elif t == 1:  # of the first tag alone
                beta = _log_sum_exp((chain.transitions + x[1] + beta).T)[None]
    return unary, counts


@_nan_is_an_answer
def viterbi(chain, triples, allowed):
    tags = np.zeros(chain.emissions.shape[:2], np.int32)
    score = np.zeros(len(chain.emissions), chain.emissions.dtype)
    for b, steps in enumerate(_valid_steps(chain)):
        if len(steps) == 0:
            continue
        bests = _prefixes(chain, triples, chain.emissions[b, steps], _largest)
        last = bests[-1] + chain.end_transitions
        score[b] = last.max()
        # in a tie the lowest last tag, and then the lowest before it
        k, j = np.unravel_index(last.T.argmax(), last.T.shape)
        path = [k, j][: len(steps)]
        for t in range(len(steps) - 1, 1, -1):
            into = triples[:, path[-1], path[-2]]
            path.append((bests[t - 1][:, path[-1]] + into).argmax())
        tags[b, steps] = path[::-1]
    return tags, score


def _prefixes(chain, triples, x, over):
    """Alpha of each step, (num_tags, num_tags); of the first, where one tag is all, (1, num_tags).

    `over` is the log-sum-exp, or for the best prefixes the maximum, over the first axis.
    """
    alphas = [(chain.start_transitions + x[0])[None]]
    for t in range(1, len(x)):
        before = alphas[-1]
        joined = before.T if t == 1 else over(before[:, :, None] + triples)
        alphas.append(joined + chain.transitions + x[t])
    return alphas


def _largest(scores):
    return scores.max(axis=0)
