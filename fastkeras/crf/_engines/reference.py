"""The algorithm written to be read: one sequence and one step at a time, in log space.

Works in the dtype given, float32, float64 or longdouble. Slow on purpose; every other engine is
tested against it.

A score of −inf forbids. A sequence that uses a score of NaN or +inf has no log Z: its log Z,
likelihood, marginals and gradients are NaN. Mostly that follows from the arithmetic; the code says
where it does not. Other sequences are not affected, except through the gradients that they share.
"""

import numpy as np

from fastkeras.crf.chain import Gradients

VARYING_TRANSITIONS = True  # this engine takes transitions that vary with the step

_nan_is_an_answer = np.errstate(invalid="ignore")


@_nan_is_an_answer
def log_partition(chain):
    log_partition = np.zeros(len(chain.emissions), chain.emissions.dtype)
    for b, steps in enumerate(_valid_steps(chain)):
        if len(steps):
            pairs = _pairs(chain.transitions, b, steps)
            alpha = _forward(chain.emissions[b, steps], pairs, chain.start_transitions)
            log_partition[b] = _log_sum_exp(alpha[-1] + chain.end_transitions)
    return log_partition


@_nan_is_an_answer
def sequence_score(chain, tags):
    score = np.zeros(len(chain.emissions), chain.emissions.dtype)
    for b, steps in enumerate(_valid_steps(chain)):
        if len(steps):
            path = tags[b, steps]
            pairs = _pairs(chain.transitions, b, steps)
            score[b] = (
                chain.start_transitions[path[0]]
                + chain.emissions[b, steps, path].sum()
                + pairs[np.arange(len(pairs)), path[:-1], path[1:]].sum()
                + chain.end_transitions[path[-1]]
            )
    return score


@_nan_is_an_answer
def log_likelihood(chain, tags):
    score = sequence_score(chain, tags)
    log_z = log_partition(chain)
    impossible = np.isneginf(score) & ~np.isnan(log_z)
    return np.minimum(score - np.where(impossible, 0, log_z), 0)  # above 0 by rounding only


@_nan_is_an_answer
def log_likelihood_and_gradients(chain, tags, weights):
    likelihood = log_likelihood(chain, tags)
    unary, counts = marginals(chain)
    d_emissions = np.zeros_like(chain.emissions)
    d_transitions = np.zeros_like(chain.transitions)
    d_start = np.zeros_like(chain.start_transitions)
    d_end = np.zeros_like(chain.end_transitions)
    for b, steps in enumerate(_valid_steps(chain)):
        if len(steps) == 0 or np.isneginf(likelihood[b]) or weights[b] == 0:
            continue
        path = tags[b, steps]
        gold_counts = np.zeros_like(counts[b])
        for t in range(1, len(steps)):
            _of_step(gold_counts, steps[t])[path[t - 1], path[t]] += 1
        d_emissions[b, steps] = -weights[b] * unary[b, steps]
        d_emissions[b, steps, path] += weights[b]
        d_here = d_transitions if d_transitions.ndim == 2 else d_transitions[b]
        d_here += weights[b] * (gold_counts - counts[b])
        d_start += d_emissions[b, steps[0]]
        d_end += d_emissions[b, steps[-1]]
    return likelihood, Gradients(d_emissions, d_transitions, d_start, d_end)


@_nan_is_an_answer
def weighted_log_likelihood(chain, tags, weights):
    value = np.where(np.isneginf(log_likelihood(chain, tags)), -np.inf, 0)
    value = value.astype(chain.emissions.dtype)
    weights = np.where(np.isfinite(weights), weights, np.nan)  # else −inf, as if impossible
    for b, steps in enumerate(_valid_steps(chain)):
        if len(steps) == 0 or np.isneginf(value[b]):
            continue
        x, path, of_steps = chain.emissions[b, steps], tags[b, steps], weights[b, steps]
        pairs = _pairs(chain.transitions, b, steps)
        beta = _backward(x, pairs, chain.end_transitions)
        for t in range(len(steps)):
            leaving = pairs[t - 1, path[t - 1]] if t else chain.start_transitions
            scores = leaving + x[t] + beta[t]  # of each tag here, with all that can follow it
            value[b] += of_steps[t] * min(scores[path[t]] - _log_sum_exp(scores), 0)
    return value


@_nan_is_an_answer
def entropy(chain):
    return entropy_and_gradients(chain, np.zeros(len(chain.emissions)))[0]


@_nan_is_an_answer
def entropy_and_gradients(chain, weights):
    log_z = log_partition(chain)
    entropy = np.where(np.isnan(log_z), log_z, 0)
    gradients = Gradients(*map(np.zeros_like, chain.scores))
    for b, steps in enumerate(_valid_steps(chain)):
        if len(steps) == 0 or np.isneginf(log_z[b]):
            continue
        log_p = _conditionals(chain, b, steps)
        p = [np.exp(row) for row in log_p]
        # remaining[t][i]: entropy of all that may follow tag i at the step before t
        remaining = [np.zeros(chain.emissions.shape[2], chain.emissions.dtype)]
        for t in reversed(range(len(steps))):
            surprise = np.where(p[t] == 0, 0, remaining[0] - log_p[t])
            remaining.insert(0, (p[t] * surprise).sum(axis=1))
        entropy[b] += remaining[0][0]
        if weights[b] == 0:
            continue
        # the probability of each tag, weighted; NaN where log Z is, so that all derivatives are
        reached = np.full(1, weights[b] + 0 * log_z[b])
        slope = np.zeros_like(reached)  # derivatives by the emissions of the step before
        for t, (step, p_of_step) in enumerate(zip(steps, p, strict=True)):
            # what log p(y_t | y_{t−1}) adds to −log p(y) beyond its expectation given y_{t−1}
            surprise = remaining[t + 1] - log_p[t] - remaining[t][:, None]
            surprise = np.where(p_of_step == 0, 0, surprise)
            pairs = p_of_step * (slope[:, None] + reached[:, None] * surprise)
            reached, slope = reached @ p_of_step, pairs.sum(axis=0)
            gradients.emissions[b, step] = slope
            if t == 0:
                gradients.start_transitions[:] += slope
            elif chain.varies:
                gradients.transitions[b, step - 1] = pairs
            else:
                gradients.transitions[:] += pairs
        gradients.end_transitions[:] += slope
    return entropy, gradients


@_nan_is_an_answer
def marginals(chain):
    unary = np.zeros_like(chain.emissions)
    counts = np.zeros(
        (len(chain.emissions), *_shape_of_one(chain.transitions)), chain.emissions.dtype
    )
    for b, steps in enumerate(_valid_steps(chain)):
        if len(steps) == 0:
            continue
        x = chain.emissions[b, steps]
        pairs = _pairs(chain.transitions, b, steps)
        alpha = _forward(x, pairs, chain.start_transitions)
        beta = _backward(x, pairs, chain.end_transitions)
        log_z = _log_sum_exp(alpha[-1] + beta[-1])
        if np.isneginf(log_z):
            continue  # no sequence is possible
        # Each step by its own sum: log Z has the rounding errors of all steps at large scores.
        unary[b, steps] = _probabilities((alpha + beta).T, log_z).T
        for t in range(1, len(steps)):
            pair = alpha[t - 1][:, None] + pairs[t - 1] + (x[t] + beta[t])[None, :]
            _of_step(counts[b], steps[t])[:] += _probabilities(pair.ravel(), log_z).reshape(
                pair.shape
            )
    return unary, counts


@_nan_is_an_answer
def viterbi(chain):
    tags = np.zeros(chain.emissions.shape[:2], np.int32)
    score = np.zeros(len(chain.emissions), chain.emissions.dtype)
    for b, steps in enumerate(_valid_steps(chain)):
        if len(steps) == 0:
            continue
        x = chain.emissions[b, steps]
        pairs = _pairs(chain.transitions, b, steps)
        best = chain.start_transitions + x[0]  # best[j]: of all paths that end in j
        came_from = []
        for t in range(1, len(steps)):
            candidates = best[:, None] + pairs[t - 1]
            came_from.append(candidates.argmax(axis=0))  # in a tie the lowest tag
            best = candidates.max(axis=0) + x[t]
        best = best + chain.end_transitions
        path = [best.argmax()]
        for pointers in reversed(came_from):
            path.append(pointers[path[-1]])
        tags[b, steps] = path[::-1]
        score[b] = best.max()
    return tags, score


@_nan_is_an_answer
def sample(chain, uniforms):
    tags = np.zeros(uniforms.shape, np.int32)
    for b, steps in enumerate(_valid_steps(chain)):
        if len(steps) == 0:
            continue
        pairs = _pairs(chain.transitions, b, steps)
        alpha = _forward(chain.emissions[b, steps], pairs, chain.start_transitions)
        if not np.isfinite(_log_sum_exp(alpha[-1] + chain.end_transitions)):
            continue  # no sequence is possible, or there is no log Z
        for tags_of_sample, uniforms_of_sample in zip(tags[:, b], uniforms[:, b], strict=True):
            after = chain.end_transitions
            for t in reversed(range(len(steps))):
                tag = _draw(alpha[t] + after, uniforms_of_sample[steps[t]])
                tags_of_sample[steps[t]] = tag
                after = pairs[t - 1][:, tag] if t else None
    return tags


@_nan_is_an_answer
def k_best(chain, k):
    batch, num_steps, num_tags = chain.emissions.shape
    tags = np.zeros((batch, k, num_steps), np.int32)
    scores = np.full((batch, k), -np.inf, chain.emissions.dtype)
    _, best_score = viterbi(chain)
    for b, steps in enumerate(_valid_steps(chain)):
        if len(steps) == 0:
            scores[b, 0] = 0  # the empty sequence
            continue
        if not best_score[b] < np.inf:  # the sequences have no order
            scores[b, 0], scores[b, 1:] = best_score[b], np.nan
            continue
        x = chain.emissions[b, steps]
        pairs = _pairs(chain.transitions, b, steps)
        # best[j]: the best paths that end in j, at most k, as (score, path)
        best = [[(chain.start_transitions[j] + x[0, j], [j])] for j in range(num_tags)]
        for t in range(1, len(steps)):
            best = [
                _first_k(
                    k,
                    [
                        (score + pairs[t - 1, i, j] + x[t, j], [*path, j])
                        for i in range(num_tags)
                        for score, path in best[i]
                    ],
                )
                for j in range(num_tags)
            ]
        complete = [
            (score + chain.end_transitions[j], path)
            for j in range(num_tags)
            for score, path in best[j]
        ]
        for rank, (score, path) in enumerate(_first_k(k, complete)):
            scores[b, rank] = score
            tags[b, rank, steps] = path
    return tags, scores


def _first_k(k, candidates):
    """The k best candidates that are possible; in a tie those that come first."""
    possible = [candidate for candidate in candidates if candidate[0] > -np.inf]
    return sorted(possible, key=lambda candidate: -candidate[0])[:k]


def _draw(scores, uniform):
    """The first index at which the sum of the probabilities is above `uniform`."""
    sums = np.exp(scores - scores.max()).cumsum()
    return np.searchsorted(sums, uniform * sums[-1], side="right")


def _forward(x, pairs, start_transitions):
    """alpha[t, j]: log-sum of the scores of all prefixes that end in tag j at step t."""
    alpha = np.empty_like(x)
    alpha[0] = start_transitions + x[0]
    for t in range(1, len(x)):
        alpha[t] = _log_sum_exp(alpha[t - 1][:, None] + pairs[t - 1]) + x[t]
    return alpha


def _backward(x, pairs, end_transitions):
    """beta[t, i]: log-sum of the scores of all suffixes that follow tag i at step t."""
    beta = np.empty_like(x)
    beta[-1] = end_transitions
    for t in range(len(x) - 1, 0, -1):
        beta[t - 1] = _log_sum_exp((pairs[t - 1] + (x[t] + beta[t])[None, :]).T)
    return beta


def _conditionals(chain, b, steps):
    """For each step log p(y_t = j | y_{t−1} = i): a row for each i, a single one at the first step.

    A row of −inf where i has no sequence after it.
    """
    x, pairs = chain.emissions[b, steps], _pairs(chain.transitions, b, steps)
    beta = _backward(x, pairs, chain.end_transitions)
    rows = []
    for t in range(len(steps)):
        before = pairs[t - 1] if t else chain.start_transitions[None]
        scores = before + x[t] + beta[t]
        log_sums = _log_sum_exp(scores.T)[:, None]
        rows.append(scores - np.where(np.isneginf(log_sums), 0, log_sums))
    return rows


def _probabilities(scores, log_z):
    """The softmax over the first axis; NaN if log Z is."""
    return np.exp(scores - (log_z if np.isnan(log_z) else _log_sum_exp(scores)))


def _log_sum_exp(scores):
    """Log-sum-exp over the first axis; a column of −inf alone gives −inf, not NaN."""
    peak = scores.max(axis=0)
    finite_peak = np.where(np.isneginf(peak), 0, peak)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(scores - finite_peak).sum(axis=0)) + finite_peak


def _pairs(transitions, b, steps):
    """The transitions into each valid step of a sequence except the first: (n − 1, ·, ·)."""
    if transitions.ndim == 2:
        return np.broadcast_to(transitions, (len(steps) - 1, *transitions.shape))
    return transitions[b, steps[1:] - 1]


def _shape_of_one(transitions):
    """The shape of the transitions of one sequence, and of their counts."""
    return transitions.shape if transitions.ndim == 2 else transitions.shape[1:]


def _of_step(counts, step):
    """Where to count the transition into this step: one matrix for all steps, unless they vary."""
    return counts if counts.ndim == 2 else counts[step - 1]


def _valid_steps(chain):
    """For each sequence, the indices of the steps that take part."""
    return [np.flatnonzero(row) for row in chain.valid_steps()]
