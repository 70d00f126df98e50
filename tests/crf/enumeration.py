"""All tag sequences of short chains, one by one, in longdouble."""

from itertools import product

import numpy as np

from strategies import is_valid


def enumerate_paths(chain):
    """Yield for each sequence: its valid steps, all paths over them, and the paths' scores."""
    x, transitions = (chain[name].astype(np.longdouble) for name in ("emissions", "transitions"))
    batch, steps, num_tags = x.shape
    none = np.zeros(num_tags, np.longdouble)
    start = none if chain["start_transitions"] is None else chain["start_transitions"]
    end = none if chain["end_transitions"] is None else chain["end_transitions"]
    valid = is_valid(chain["lengths"], chain["mask"], batch, steps)
    for b in range(batch):
        steps = np.flatnonzero(valid[b])
        paths = np.array(list(product(range(num_tags), repeat=len(steps))), int)
        scores = np.zeros(len(paths), np.longdouble)
        if len(steps):
            scores += start[paths[:, 0]]
            for k, t in enumerate(steps):
                scores += x[b, t, paths[:, k]]
                if k:
                    scores += _into(transitions, b, t)[paths[:, k - 1], paths[:, k]]
            scores += end[paths[:, -1]]
        yield steps, paths, scores


def _into(transitions, b, t):
    """Return the transitions into a step, (num_tags, num_tags), whether they vary or not."""
    if transitions.ndim == 2:
        return transitions
    return transitions[t - 1] if transitions.ndim == 3 else transitions[b, t - 1]


def probabilities(scores):
    """Return the log-sum of the scores, and the probability of each path."""
    peak = scores.max()
    if np.isneginf(peak):
        return peak, np.zeros_like(scores)
    log_z = peak + np.log(np.exp(scores - peak).sum())
    return log_z, np.exp(scores - log_z)
