"""Streaming Viterbi, compared bit for bit with decoding the whole sequence at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastkeras
from enumeration import enumerate_paths
from fastkeras.crf import ViterbiStream, viterbi
from strategies import chains

SCORES = ("transitions", "start_transitions", "end_transitions")
CUTS = (1, 2, 7, 40, 300)


def stream_of(chain):
    return ViterbiStream(**{name: chain[name] for name in SCORES})


def decode(stream, emissions, size):
    """Return (tags, score, the largest number of undecided steps) of chunks of this size."""
    found, most = [], 0
    for first in range(0, len(emissions), size):
        found.append(stream.feed(emissions[first : first + size]))
        most = max(most, stream.undecided)
        assert sum(map(len, found)) + stream.undecided == min(first + size, len(emissions))
    tags, score = stream.finish()
    return np.concatenate([*found, tags]), score, most


def random_chain(rng, steps, num_tags, dtype, quantum=None, forbidden=0.0):
    """Return a chain of one sequence; scores are multiples of `quantum`, with many ties."""
    shapes = {"emissions": (1, steps, num_tags), "transitions": (num_tags, num_tags)}
    shapes |= dict.fromkeys(SCORES[1:], (num_tags,))
    chain = {name: 2 * rng.standard_normal(shape) for name, shape in shapes.items()}
    if quantum:
        chain = {name: quantum * np.rint(a / quantum) for name, a in chain.items()}
    chain["transitions"][rng.random((num_tags, num_tags)) < forbidden] = -np.inf
    return {name: a.astype(dtype) for name, a in chain.items()}


@pytest.mark.skipif(fastkeras.engines("crf")["native"] != "ready", reason="no native engine here")
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("num_tags", (1, 2, 3, 9, 17, 33))
@pytest.mark.parametrize("size", CUTS)
def test_any_cut_gives_the_bits_of_the_native_engine(size, num_tags, dtype, rng):
    for quantum, forbidden in ((None, 0.0), (None, 0.4), (1.0, 0.0), (2.0, 0.4)):
        chain = random_chain(rng, 700, num_tags, dtype, quantum, forbidden)
        expected, expected_score = viterbi(**chain, engine="native")
        tags, score, _ = decode(stream_of(chain), chain["emissions"][0], size)
        assert tags.dtype == np.int32
        np.testing.assert_array_equal(score, expected_score[0])
        if score > -np.inf:
            np.testing.assert_array_equal(tags, expected[0])


@pytest.mark.skipif(fastkeras.engines("crf")["native"] != "ready", reason="no native engine here")
def test_rows_are_rounded_as_those_of_the_native_engine(rng):
    chain = random_chain(rng, 3000, 4, "float32", quantum=4.0)
    eps = 16 * np.finfo("float32").eps  # a sum near 64 still holds it, one near 300 does not
    chain = {n: a + np.float32(eps) * rng.random(a.shape, "float32") for n, a in chain.items()}
    expected, _ = viterbi(**chain, engine="native")
    tags, _, _ = decode(stream_of(chain), chain["emissions"][0], 100)
    np.testing.assert_array_equal(tags, expected[0])


@pytest.mark.parametrize("size", CUTS)
def test_ties_are_those_of_every_engine_where_sums_are_exact(engine, size, rng):
    chain = random_chain(rng, 120, 4, "float64", quantum=1.0, forbidden=0.2)
    expected, expected_score = viterbi(**chain, engine=engine)
    tags, score, _ = decode(stream_of(chain), chain["emissions"][0], size)
    np.testing.assert_array_equal(tags, expected[0])
    assert score == expected_score[0] > -np.inf


@given(chain=chains(dtype="float64", num_tags=(1, 2, 3), max_steps=5), size=st.integers(1, 3))
def test_the_path_is_the_best_of_all(chain, size):
    stream = stream_of(chain)
    for b, (steps, _, scores) in enumerate(enumerate_paths(chain)):
        tags, score, _ = decode(stream, chain["emissions"][b, steps], size)
        assert len(tags) == len(steps)
        np.testing.assert_allclose(score, scores.max(), rtol=1e-12, atol=1e-12)


@given(chain=chains(dtype="float64", num_tags=(2, 3), max_steps=6, scales=(1.0,)))
def test_what_is_given_out_is_exactly_what_no_later_step_can_change(chain):
    # steps are decided where the best paths to all possible last tags agree, and nowhere else
    for b, (steps, paths, scores) in enumerate(enumerate_paths(chain)):
        stream = ViterbiStream(chain["transitions"], chain["start_transitions"])
        given_out = stream.feed(chain["emissions"][b, steps])
        end = chain["end_transitions"]
        scores = scores if end is None or not len(steps) else scores - end[paths[:, -1]]
        last = paths[:, -1] if len(steps) else np.zeros(len(paths), int)
        possible = [j for j in np.unique(last) if scores[last == j].max() > -np.inf]
        if not possible or (end is not None and np.isneginf(end).any()):
            continue
        best = np.array([paths[last == j][scores[last == j].argmax()] for j in possible])
        agreed = np.logical_and.accumulate((best == best[0]).all(axis=0))
        np.testing.assert_array_equal(given_out, best[0][agreed])


def test_memory_is_that_of_the_undecided_steps(rng):
    chain = random_chain(rng, 20_000, 5, "float32")
    stream = stream_of(chain)
    _, _, most = decode(stream, chain["emissions"][0], 100)
    assert most < 100
    assert stream.undecided == 0
    undecidable = np.zeros((1000, 2), "float32")  # two unconnected tags, equally good so far
    stream = ViterbiStream(np.array([[0, -np.inf], [-np.inf, 0]]))
    assert len(stream.feed(undecidable)) == 0
    assert stream.undecided == 1000
    np.testing.assert_array_equal(stream.feed([[0, 1], [-np.inf, 0]]), np.ones(1002))


def test_a_stream_begins_anew_after_its_end(rng):
    chains = [random_chain(rng, 50, 3, dtype) for dtype in ("float32", "float64")]
    stream = stream_of(chains[0])
    for chain in chains * 2:
        tags, score, _ = decode(stream, chain["emissions"][0], 8)
        expected = decode(stream_of(chains[0]), chain["emissions"][0], 50)
        np.testing.assert_array_equal(tags, expected[0])
        assert score == expected[1]
    tags, score = stream.finish()
    assert tags.dtype == np.int32 and len(tags) == 0 and score == 0


def test_the_stream_keeps_no_view_of_what_it_is_fed(rng):
    chain = random_chain(rng, 300, 4, "float32")
    expected, _, _ = decode(stream_of(chain), chain["emissions"][0], 300)
    stream, buffer, found = stream_of(chain), np.empty((3, 4), "float32"), []
    for first in range(0, 300, 3):
        buffer[:] = chain["emissions"][0, first : first + 3]
        found.append(stream.feed(buffer))
        buffer[:] = np.nan
    np.testing.assert_array_equal(np.concatenate([*found, stream.finish()[0]]), expected)


def test_bad_arguments_raise():
    with pytest.raises(ValueError, match=r"^transitions must have shape \(num_tags, num_tags\)"):
        ViterbiStream(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"^transitions must have shape"):
        ViterbiStream(0.0)
    with pytest.raises(ValueError, match=r"^end_transitions must have shape \(num_tags,\) = \(3,"):
        ViterbiStream(np.zeros((3, 3)), end_transitions=np.zeros(2))
    stream = ViterbiStream(np.zeros((3, 3)))
    for shape in ((3,), (2, 4), (1, 2, 3)):
        with pytest.raises(
            ValueError, match=r"^emissions must have shape \(steps, num_tags\) = \(steps, 3\), got"
        ):
            stream.feed(np.zeros(shape))
    with pytest.raises(ValueError, match=r"^emissions must be one of float16"):
        stream.feed(np.array([["a", "b", "c"]]))
