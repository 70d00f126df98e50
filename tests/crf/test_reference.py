"""The reference, compared with the enumeration of all tag sequences in longdouble."""

import numpy as np
import pytest
from hypothesis import given

from accuracy import ULPS
from calls import call_reference
from enumeration import enumerate_paths, probabilities
from strategies import chains

EPSILON = np.finfo(np.longdouble).eps
small_chains = chains(dtype="float64", num_tags=(1, 2, 3), max_steps=5)


def assert_equal(actual, expected, chain):
    """Equal up to the rounding of longdouble at the largest sum of scores, even forbidden ones."""
    names = ("emissions", "transitions", "start_transitions", "end_transitions")
    scores = [np.abs(chain[name]).ravel() for name in names if chain[name] is not None]
    scores = np.concatenate(scores)
    steps = chain["emissions"].shape[1]
    scale = max(1, scores[np.isfinite(scores)].max(initial=0)) * (2 * steps + 1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=ULPS * EPSILON * scale * steps)


@given(chain=small_chains)
def test_log_partition(chain):
    expected = [
        probabilities(scores)[0] if len(steps) else 0 for steps, _, scores in enumerate_paths(chain)
    ]
    (log_z,) = call_reference("log_partition", chain, "longdouble")
    assert_equal(log_z, np.array(expected), chain)


@given(chain=small_chains)
def test_sequence_score_and_log_likelihood(chain):
    (score,) = call_reference("sequence_score", chain, "longdouble")
    (likelihood,) = call_reference("log_likelihood", chain, "longdouble")
    for b, (steps, paths, scores) in enumerate(enumerate_paths(chain)):
        gold = scores[(paths == chain["tags"][b, steps]).all(axis=1)]
        assert gold.shape == (1,)
        possible = np.isfinite(gold[0])
        expected = gold[0] - probabilities(scores)[0] if possible else -np.inf
        assert_equal(score[b], gold[0], chain)
        assert_equal(likelihood[b], expected, chain)


@given(chain=small_chains)
def test_marginals(chain):
    unary, counts = call_reference("marginals", chain, "longdouble")
    expected_unary, expected_counts = np.zeros_like(unary), np.zeros_like(counts)
    for b, (steps, paths, scores) in enumerate(enumerate_paths(chain)):
        for path, probability in zip(paths, probabilities(scores)[1], strict=True):
            expected_unary[b, steps, path] += probability
            np.add.at(expected_counts[b], (path[:-1], path[1:]), probability)
    assert_equal(unary, expected_unary, chain)
    assert_equal(counts, expected_counts, chain)


@given(chain=small_chains)
def test_gradients(chain):
    weights = np.linspace(-1, 2, len(chain["emissions"]))
    value, *actual = call_reference("log_likelihood_and_gradients", chain, "longdouble", weights)
    assert_equal(value, call_reference("log_likelihood", chain, "longdouble")[0], chain)
    expected = [np.zeros_like(gradient) for gradient in actual]
    for b, (steps, paths, scores) in enumerate(enumerate_paths(chain)):
        if len(steps) == 0 or np.isneginf(value[b]):
            continue
        share = (paths == chain["tags"][b, steps]).all(axis=1) - probabilities(scores)[1]
        for path, amount in zip(paths, weights[b] * share, strict=True):
            expected[0][b, steps, path] += amount
            np.add.at(expected[1], (path[:-1], path[1:]), amount)
            expected[2][path[0]] += amount
            expected[3][path[-1]] += amount
    for gradient, truth in zip(actual, expected, strict=True):
        assert_equal(gradient, truth, chain)


@given(chain=small_chains)
def test_viterbi(chain):
    tags, score = call_reference("viterbi", chain, "longdouble")
    for b, (steps, paths, scores) in enumerate(enumerate_paths(chain)):
        assert_equal(score[b], scores.max(), chain)
        own = scores[(paths == tags[b, steps]).all(axis=1)]
        assert_equal(own, scores.max(keepdims=True), chain)
        masked = np.delete(tags[b], steps)
        np.testing.assert_array_equal(masked, 0)


@pytest.mark.parametrize("steps", (1, 2, 5))
def test_of_equal_paths_the_lowest_tags_are_decoded(steps):
    chain = {
        "emissions": np.zeros((2, steps, 3)),
        "tags": np.zeros((2, steps), int),
        "transitions": np.zeros((3, 3)),
        "lengths": None,
        "mask": None,
        "start_transitions": None,
        "end_transitions": None,
    }
    tags, score = call_reference("viterbi", chain, "float64")
    np.testing.assert_array_equal(tags, 0)
    np.testing.assert_array_equal(score, 0)
