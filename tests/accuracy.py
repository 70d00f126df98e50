"""The one tolerance rule of the suite, and the calls it needs."""

import numpy as np

from fastkeras import crf
from fastkeras.crf import _reference
from fastkeras.crf.arguments import chain_arguments
from strategies import is_valid

VALUES = ("log_partition", "sequence_score", "log_likelihood")
FUNCTIONS = (*VALUES, "log_likelihood_and_gradients", "marginals", "viterbi")
WIDER = {"float32": "float64", "float64": "longdouble"}
ULPS = 4  # roundings on the way: a sum of two scores, exp, log, a quotient


def call(function, chain, engine, **more):
    """Call a function of fastkeras.crf through its public door; return a list of arrays."""
    if function in ("log_partition", "marginals", "viterbi"):
        chain = {name: value for name, value in chain.items() if name != "tags"}
    return _arrays(getattr(crf, function)(**chain, **more, engine=engine))


def call_reference(function, chain, dtype, weights=None):
    """Call the reference in `dtype`, which the public door does not let through."""
    x, tags, transitions, lengths, mask, start, end = _arguments(chain)
    x, transitions, start, end = (a.astype(dtype) for a in (x, transitions, start, end))
    arguments = [x, transitions, lengths, mask, start, end]
    if function not in ("log_partition", "marginals", "viterbi"):
        arguments.insert(1, tags)
    if function == "log_likelihood_and_gradients":
        weights = np.ones(len(x)) if weights is None else weights
        arguments.append(np.asarray(weights).astype(dtype))
    return _arrays(getattr(_reference, function)(*arguments))


def assert_as_accurate_as_reference(results, exact, rounded, chain):
    """Assert |engine − exact| <= 2 · |reference in the same dtype − exact| + ULPS ulp.

    The largest error over each array counts, on both sides: the reference is exact here and there
    by luck. The ulp is that of the dtype at the largest magnitude there is to handle: of the
    results, of a score on the best path, or exp(0) = 1. −inf has to be −inf; nothing may be NaN.

    Args:
        results, exact, rounded: lists of arrays; of the engine, of the reference in the next wider
            type, and of the reference in the dtype of the results.
        chain: the arguments of the call.
    """
    assert len(results) == len(exact) == len(rounded)
    for result, truth, peer in zip(results, exact, rounded, strict=True):
        assert result.shape == truth.shape
        assert not np.isnan(result).any()
        possible = ~np.isneginf(truth)
        np.testing.assert_array_equal(~np.isneginf(result), possible)
        error = _largest(result[possible].astype(truth.dtype) - truth[possible])
        allowed = 2 * _largest(peer[possible].astype(truth.dtype) - truth[possible])
        scale = max(1, _largest(truth[possible]), largest_score(chain))
        allowed += ULPS * np.spacing(np.asarray(scale, result.dtype)).astype(truth.dtype)
        assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


def largest_score(chain):
    """Return the largest magnitude of a single score on the best paths, or 0.

    Only those paths have a probability that rounding can move; what forbids the others, −1e4 for
    instance, does not count.
    """
    x, _, transitions, lengths, mask, start, end = _arguments(chain)
    tags, score = _reference.viterbi(x, transitions, lengths, mask, start, end)
    largest = 0.0
    for b, valid in enumerate(is_valid(lengths, mask, *x.shape[:2])):
        path = tags[b, valid]
        if len(path) == 0 or np.isneginf(score[b]):
            continue
        steps = (x[b, valid, path], transitions[path[:-1], path[1:]], start[path[0]], end[path[-1]])
        largest = max(largest, *map(_largest, steps))
    return largest


def _arguments(chain):
    names = ("emissions", "transitions", "lengths", "mask", "start_transitions", "end_transitions")
    return chain_arguments(*(chain[name] for name in names), chain["tags"])


def _largest(array):
    return np.abs(array).max(initial=0)


def _arrays(result):
    """Flatten tuples, and turn tensors of any kind into NumPy arrays."""
    if isinstance(result, tuple):
        return [array for part in result for array in _arrays(part)]
    if not isinstance(result, np.ndarray):
        from keras import ops

        result = ops.convert_to_numpy(result)
    return [result]
