"""Posterior decoding and the confidence of spans, compared with the enumeration."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls import call
from enumeration import enumerate_paths, probabilities
from fastkeras import crf
from strategies import chains

small = chains(num_tags=(1, 2, 3), max_steps=5, scales=(0.1, 1.0), forbidden=(None, -np.inf))
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}


def without_tags(chain):
    return {name: value for name, value in chain.items() if name != "tags"}


@given(chain=small)
def test_posterior_decoding_takes_the_largest_marginals(engine, chain):
    tags, p = map(np.asarray, crf.posterior_decode(**without_tags(chain), engine=engine))
    unary, _ = call("marginals", chain, engine)
    assert tags.dtype == np.int32 and p.dtype == unary.dtype
    np.testing.assert_array_equal(tags, unary.argmax(axis=-1))
    np.testing.assert_array_equal(p, unary.max(axis=-1))


@given(chain=small, seed=st.integers(0, 2**32 - 1))
def test_the_confidence_of_a_span_is_the_sum_of_the_sequences_that_have_it(engine, chain, seed):
    rng = np.random.default_rng(seed)
    batch, steps = chain["tags"].shape
    of = rng.integers(0, batch, 4)
    first = rng.integers(0, steps, 4)
    spans = np.stack([of, first, rng.integers(first, steps) + 1], axis=1)
    tags = rng.integers(0, chain["transitions"].shape[0], (batch, steps))
    arguments = {**chain, "tags": tags}
    p = np.asarray(crf.span_confidence(spans=spans, **arguments, engine=engine))
    assert p.dtype == chain["emissions"].dtype
    sequences = list(enumerate_paths(chain))
    for (b, first, stop), confidence in zip(spans, p, strict=True):
        valid, paths, scores = sequences[b]
        inside = (valid >= first) & (valid < stop)
        hits = (paths[:, inside] == tags[b, valid[inside]]).all(axis=1)
        expected = probabilities(scores)[1][hits].sum() if len(valid) else 1
        assert abs(confidence - expected) <= TOLERANCE[p.dtype.name]


def test_no_spans_have_no_confidence(engine):
    x, transitions, tags = np.zeros((2, 3, 4)), np.zeros((4, 4)), np.zeros((2, 3), int)
    assert np.asarray(crf.span_confidence(x, tags, [], transitions, engine=engine)).shape == (0,)


@pytest.mark.parametrize(
    ("spans", "message"),
    (
        (
            [0, 0, 1],
            r"^spans must be integers of shape \(num_spans, 3\).* got int64 of shape \(3,\)",
        ),
        ([[0.0, 0, 1]], r"^spans must be integers"),
        ([[2, 0, 1]], r"^spans must be in sequences 0..1 and .*, got \(2, 0, 1\)"),
        ([[0, 0, 1], [0, 1, 1]], r"got \(0, 1, 1\)"),
        ([[0, 0, 4]], r"got \(0, 0, 4\)"),
        ([[0, -1, 1]], r"got \(0, -1, 1\)"),
    ),
)
def test_bad_spans_raise(spans, message):
    with pytest.raises(ValueError, match=message):
        crf.span_confidence(np.zeros((2, 3, 4)), np.zeros((2, 3), int), spans, np.zeros((4, 4)))
