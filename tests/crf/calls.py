"""Calls of fastkeras.crf for tests, and their comparison with the reference in wider types."""

import numpy as np

from accuracy import WIDER, assert_as_accurate_as_reference
from fastkeras import crf
from fastkeras.crf._engines import reference
from fastkeras.crf.arguments import chain_of, tags_of
from strategies import is_valid

VALUES = ("log_partition", "sequence_score", "log_likelihood")
FUNCTIONS = (*VALUES, "log_likelihood_and_gradients", "marginals", "viterbi")
WITHOUT_TAGS = ("log_partition", "marginals", "viterbi")


def check(function, chain, engine):
    """Assert that an engine is as accurate as the reference; `chain` is float32 or float64."""
    dtype = chain["emissions"].dtype.name
    results = call(function, chain, engine)
    exact = call_reference(function, chain, WIDER[dtype])
    rounded = call_reference(function, chain, dtype)
    if function == "viterbi":  # there may be several best paths, so compare their scores
        own = _own_score(results[0], chain)
        results, exact, rounded = [results[1], own], [exact[1]] * 2, [rounded[1]] * 2
    scale = largest_score(chain)
    scales, sums = [scale] * len(results), [0.0] * len(results)
    if function in ("sequence_score", "log_likelihood", "log_likelihood_and_gradients"):
        scales[0] = max(scale, largest_score(chain, chain["tags"]))
    if function != "marginals":  # the first result, for `viterbi` both, are sums over the steps
        sums[0] = sums[-1 if function == "viterbi" else 0] = scales[0] * chain["tags"].shape[1]
    for arrays in zip(results, exact, rounded, scales, sums, strict=True):
        assert_as_accurate_as_reference(*arrays)


def call(function, chain, engine, **more):
    """Call a function of fastkeras.crf through its public door; return a list of arrays."""
    if function in WITHOUT_TAGS:
        chain = {name: value for name, value in chain.items() if name != "tags"}
    return _arrays(getattr(crf, function)(**chain, **more, engine=engine))


def call_reference(function, chain, dtype, weights=None):
    """Call the reference in a `dtype` that the public functions do not accept."""
    chain, tags = checked(chain)
    arguments = [chain.with_scores(lambda scores: scores.astype(dtype))]
    if function not in WITHOUT_TAGS:
        arguments.append(tags)
    if function == "log_likelihood_and_gradients":
        weights = np.ones(len(tags)) if weights is None else weights
        arguments.append(np.asarray(weights).astype(dtype))
    return _arrays(getattr(reference, function)(*arguments))


def largest_score(chain, tags=None):
    """Return the largest magnitude of a single score on the paths given, or on the best paths.

    Rounding affects only the probabilities of the best paths; scores that forbid others, −1e4 for
    instance, do not count.
    """
    chain, _ = checked(chain)
    if tags is None:
        tags, _ = reference.viterbi(chain)
    largest = 0.0
    for b, valid in enumerate(chain.valid_steps()):
        path = tags[b, valid]
        if len(path):
            pairs = (path[:-1], path[1:])
            if chain.varies:
                pairs = (b, np.flatnonzero(valid)[1:] - 1, *pairs)
            steps = (chain.emissions[b, valid, path], chain.transitions[pairs])
            ends = [chain.start_transitions[path[0]], chain.end_transitions[path[-1]]]
            scores = np.concatenate([*steps, ends])
            largest = max(largest, _largest(scores[np.isfinite(scores)]))
    return largest


def _own_score(tags, chain):
    """Return the exact score of decoded tags, which are 0 at steps that are not valid."""
    assert tags.dtype == np.int32
    valid = is_valid(chain["lengths"], chain["mask"], *tags.shape)
    np.testing.assert_array_equal(tags[~valid], 0)
    wider = WIDER[chain["emissions"].dtype.name]
    return call_reference("sequence_score", {**chain, "tags": tags}, wider)[0]


def checked(arguments):
    """Return the `Chain` and the tags of keyword arguments."""
    chain = chain_of(**{name: value for name, value in arguments.items() if name != "tags"})
    return chain, tags_of(chain, arguments["tags"])


def _largest(array):
    return np.abs(array).max(initial=0)


def _arrays(result):
    """Flatten tuples, and turn tensors of any kind into NumPy arrays."""
    if isinstance(result, tuple):
        return [array for part in result for array in _arrays(part)]
    return [np.asarray(result)]
