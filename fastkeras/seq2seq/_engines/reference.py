"""The algorithm written to be read: one sentence and one hypothesis at a time, in the dtype given.

Works in float32, float64 and longdouble. Slow on purpose; every other engine is tested against it.
"""

import numpy as np


def select(step, num_candidates):
    batch, beams, vocabulary = step.logits.shape
    scores = np.full((batch, num_candidates), -np.inf, step.logits.dtype)
    tokens = np.zeros((batch, num_candidates), np.int32)
    parents = np.zeros((batch, num_candidates), np.int32)
    for b in range(batch):
        totals = np.full((beams, vocabulary), -np.inf, step.logits.dtype)
        for beam in range(beams):
            if not np.isneginf(step.scores[b, beam]):
                totals[beam] = _scores_of_continuations(step, b, beam)
        if np.isnan(totals).any():
            scores[b] = np.nan
            continue
        totals = totals.ravel()
        best = np.argsort(-totals, kind="stable")[:num_candidates]  # in a tie the first
        best = best[totals[best] > -np.inf]
        scores[b, : len(best)] = totals[best]
        parents[b, : len(best)], tokens[b, : len(best)] = np.divmod(best, vocabulary)
    return scores, tokens, parents


def _scores_of_continuations(step, b, beam):
    """The scores of a hypothesis continued by each token; all NaN if they have no order."""
    if not step.scores[b, beam] < np.inf:
        return np.nan
    log_p = _log_softmax(step.logits[b, beam])
    if np.isnan(log_p).any():
        return np.nan
    if step.history is not None:
        history = _tokens_so_far(step.history[b, beam])
        log_p[np.unique(history)] *= step.repetition_penalty
        log_p[_would_repeat(history, step.no_repeat_ngram)] = -np.inf
    if step.allowed is not None:
        rows, beams, _ = step.allowed.shape  # 1 if all have the same
        log_p[~step.allowed[b % rows, beam % beams]] = -np.inf
    return step.scores[b, beam] + log_p


def _log_softmax(logits):
    peak = logits.max()
    if np.isneginf(peak):
        return np.full_like(logits, -np.inf)  # no token is possible
    with np.errstate(invalid="ignore"):
        return (logits - peak) - np.log(np.exp(logits - peak).sum())


def _tokens_so_far(row):
    """The tokens before the first negative number."""
    negative = np.flatnonzero(row < 0)
    return row[: negative[0]] if len(negative) else row


def _would_repeat(history, n):
    """The tokens that would complete an n-gram already in the history."""
    if n == 0 or len(history) < n - 1:
        return []
    last = list(history[len(history) - (n - 1) :])
    firsts = range(len(history) - (n - 1))
    return [history[i + n - 1] for i in firsts if list(history[i : i + n - 1]) == last]
