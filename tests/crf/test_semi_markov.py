"""Semi-Markov chains, compared with the enumeration of all segmentations."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastkeras
from engine_parameters import engines_of
from fastkeras.crf import log_partition, semi_markov

BAD = (np.zeros((0, 4)), np.zeros((2, 3)), np.zeros(4))


@st.composite
def semi_chains(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    steps, num_tags = draw(st.integers(1, 5), label="steps"), draw(st.integers(1, 3))
    max_length = draw(st.sampled_from((1, 2, 3, 7)), label="max_length")
    scale = draw(st.sampled_from((0.1, 1.0, 10.0)), label="scale")
    shapes = {
        "emissions": (3, steps, num_tags),
        "transitions": (num_tags, num_tags),
        "durations": (max_length, num_tags),
        "start_transitions": (num_tags,),
        "end_transitions": (num_tags,),
    }
    chain = {name: scale * rng.standard_normal(shape) for name, shape in shapes.items()}
    if draw(st.booleans(), label="forbids"):
        for name in ("emissions", "transitions", "durations"):
            chain[name][rng.random(chain[name].shape) < 0.2] = -np.inf
    return {**chain, "lengths": rng.integers(0, steps + 1, 3)}


def segmentations(steps, max_length, num_tags):
    """Yield all lists of (first step, length, tag)."""

    def cuts(first):
        if first == steps:
            yield []
        for length in range(1, min(max_length, steps - first) + 1):
            yield from ([(first, length), *rest] for rest in cuts(first + length))

    for cut in cuts(0):
        for tags in product(range(num_tags), repeat=len(cut)):
            yield [(*segment, tag) for segment, tag in zip(cut, tags, strict=True)]


def score_of(segments, chain, b):
    score = chain["start_transitions"][segments[0][2]] + chain["end_transitions"][segments[-1][2]]
    for first, length, tag in segments:
        score += chain["emissions"][b, first : first + length, tag].sum()
        score += chain["durations"][length - 1, tag]
    return score + sum(chain["transitions"][i[2], j[2]] for i, j in pairwise(segments))


def enumerated(chain):
    """Yield for each sequence all segmentations and their scores."""
    max_length, num_tags = chain["durations"].shape
    for b, steps in enumerate(chain["lengths"]):
        found = list(segmentations(steps, max_length, num_tags)) if steps else []
        yield found, np.array([score_of(segments, chain, b) for segments in found])


@pytest.mark.parametrize("name", engines_of("crf.semi_markov"))
@given(chain=semi_chains())
def test_log_partition_and_marginals(name, chain):
    log_z = np.asarray(semi_markov.log_partition(**chain, engine=name))
    results = [np.asarray(a) for a in semi_markov.marginals(**chain, engine=name)]
    expected = [np.zeros_like(a) for a in results]
    assert not any(np.isnan(a).any() for a in (log_z, *results))
    for b, (found, scores) in enumerate(enumerated(chain)):
        exact = np.logaddexp.reduce(scores) if found else 0
        np.testing.assert_allclose(log_z[b], exact, rtol=1e-12, atol=1e-12)
        for segments, score in zip(found, scores, strict=True):
            p = np.exp(score - exact) if np.isfinite(score) else 0
            for first, length, tag in segments:
                expected[0][b, first : first + length, tag] += p
                expected[1][b, first, length - 1, tag] += p
            for before, after in pairwise(segments):
                expected[2][b, before[2], after[2]] += p
    for result, exact in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, exact, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", engines_of("crf.semi_markov"))
@given(chain=semi_chains())
def test_viterbi(name, chain):
    tags, begins, score = map(np.asarray, semi_markov.viterbi(**chain, engine=name))
    assert tags.dtype == np.int32 and begins.dtype == bool
    for b, (found, scores) in enumerate(enumerated(chain)):
        steps = chain["lengths"][b]
        best = scores.max() if found else 0
        np.testing.assert_allclose(score[b], best, rtol=1e-12, atol=1e-12)
        assert not tags[b, steps:].any() and not begins[b, steps:].any()
        if not found or np.isneginf(best):
            assert not tags[b].any() and not begins[b].any()
            continue
        firsts = np.flatnonzero(begins[b])
        lengths = np.diff([*firsts, steps])
        segments = list(zip(firsts, lengths, tags[b, firsts], strict=True))
        assert segments in found
        for first, length, tag in segments:
            assert (tags[b, first : first + length] == tag).all()
        np.testing.assert_allclose(score_of(segments, chain, b), best, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", engines_of("crf.semi_markov"))
def test_ties_are_defined(name):
    zeros = np.zeros((1, 5, 2)), np.zeros((2, 2)), np.zeros((3, 2))
    tags, begins, _ = semi_markov.viterbi(*zeros, engine=name)
    np.testing.assert_array_equal(tags, 0)
    np.testing.assert_array_equal(begins, [[1, 0, 1, 0, 0]])


@pytest.mark.parametrize("name", engines_of("crf.semi_markov"))
def test_segments_of_one_step_are_the_linear_chain(name, rng):
    x, transitions = rng.standard_normal((2, 50, 4)), rng.standard_normal((4, 4))
    log_z = semi_markov.log_partition(x, transitions, np.zeros((1, 4)), engine=name)
    np.testing.assert_allclose(log_z, log_partition(x, transitions), rtol=1e-12)


def test_the_tape_gives_the_marginals(rng):
    tf = pytest.importorskip("tensorflow")
    scores = [tf.constant(rng.standard_normal(s)) for s in ((2, 6, 3), (3, 3), (4, 3))]
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = semi_markov.log_partition(*scores, lengths=tf.constant([6, 4]))
    d_x, d_transitions, d_durations = tape.gradient(value, scores)
    unary, segments, counts = semi_markov.marginals(
        *(a.numpy() for a in scores), lengths=np.array([6, 4])
    )
    np.testing.assert_allclose(d_x, unary, atol=1e-12)
    np.testing.assert_allclose(d_transitions, counts.sum(axis=0), atol=1e-12)
    np.testing.assert_allclose(d_durations, segments.sum(axis=(0, 1)), atol=1e-12)


@pytest.mark.parametrize("name", engines_of("crf.semi_markov"))
@given(chain=semi_chains(), data=st.data())
def test_nan_and_infinity_make_nan_of_what_uses_them_and_of_nothing_else(name, chain, data):
    value = data.draw(st.sampled_from((np.nan, np.inf)))
    spoiled = data.draw(st.sampled_from([key for key in chain if key != "lengths"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    chain[spoiled][rng.random(chain[spoiled].shape) < 0.1] = value
    lengths, max_length = chain["lengths"], len(chain["durations"])

    def is_sound(b, steps):
        used = [chain["emissions"][b, :steps], chain["durations"][:steps]]
        used += [chain["start_transitions"], chain["end_transitions"]]
        used += [chain["transitions"]] if steps > 1 else []
        return steps == 0 or all((scores < np.inf).all() for scores in used)

    sound = np.array([is_sound(b, steps) for b, steps in enumerate(lengths)])
    log_z = np.asarray(semi_markov.log_partition(**chain, engine=name))
    np.testing.assert_array_equal(np.isnan(log_z), ~sound)
    unary, segments, counts = map(np.asarray, semi_markov.marginals(**chain, engine=name))
    tags, begins, score = map(np.asarray, semi_markov.viterbi(**chain, engine=name))
    expected = semi_markov.viterbi(**chain, engine="reference")[2]
    assert not (expected[~sound] < np.inf).any()
    if name == "keras":  # −inf is a finite number there, so −inf + inf is +inf, and not NaN
        assert not (score[~sound] < np.inf).any()
        assert np.isnan(expected[np.isnan(score)]).all()
    else:
        np.testing.assert_array_equal(score[~sound], expected[~sound])
    assert not tags[~sound].any() and not begins[~sound].any()
    steps, size = np.arange(unary.shape[1]), np.arange(1, max_length + 1)
    valid = ~sound[:, None] & (steps < lengths[:, None])
    fits = steps[None, :, None] + size <= lengths[:, None, None]
    pairs = ~sound & (lengths > 1)
    for result, where in (
        (unary, valid[..., None]),
        (segments, (valid[..., None] & fits)[..., None]),
        (counts, pairs[:, None, None]),
    ):
        np.testing.assert_array_equal(np.isnan(result), np.broadcast_to(where, result.shape))
    # TensorFlow takes the exponentials at an array's end one by one, and rounds these otherwise.
    bound = 1e-14 if name == "keras" else 0
    some = {key: a[sound] if key in ("emissions", "lengths") else a for key, a in chain.items()}
    if sound.any():
        alone = (
            semi_markov.log_partition(**some, engine=name),
            *semi_markov.marginals(**some, engine=name),
        )
        for result, of_alone in zip((log_z, unary, segments, counts), alone, strict=True):
            np.testing.assert_allclose(result[sound], of_alone, rtol=bound, atol=bound)


@pytest.mark.parametrize("name", engines_of("crf.semi_markov"))
@pytest.mark.parametrize("end", ("start_transitions", "end_transitions"))
def test_the_best_score_is_infinite_where_a_boundary_is(name, end):
    scores = np.zeros((1, 2, 1)), np.zeros((1, 1)), np.zeros((2, 1))
    tags, begins, score = semi_markov.viterbi(*scores, **{end: np.array([np.inf])}, engine=name)
    np.testing.assert_array_equal(score, np.inf)
    assert not np.any(tags) and not np.any(begins)


def test_a_weight_of_zero_is_no_contribution():
    tf = pytest.importorskip("tensorflow")
    if fastkeras.engines("crf.semi_markov")["tensorflow_native"] != "ready":
        pytest.skip("needs the engine tensorflow_native")
    x = np.zeros((2, 4, 2))
    x[0, 1, 0] = np.nan
    scores = [tf.constant(x), tf.zeros((2, 2), tf.float64), tf.zeros((3, 2), tf.float64)]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(scores)
        value = semi_markov.log_partition(*scores, engine="tensorflow_native")
    assert np.isnan(value[0]) and np.isfinite(value[1])
    for gradient in tape.gradient(
        value, scores, output_gradients=tf.constant([0.0, 1.0], "float64")
    ):
        assert np.isfinite(gradient).all() and np.any(gradient)
    for gradient in tape.gradient(value, scores):
        assert np.isnan(gradient).any()


@pytest.mark.parametrize("name", engines_of("crf.semi_markov"))
def test_bad_arguments_raise(name):
    zeros = np.zeros((2, 3, 4)), np.zeros((4, 4))
    for durations in BAD:
        with pytest.raises(
            ValueError, match=r"^durations must have shape \(max_length, num_tags\)"
        ):
            semi_markov.log_partition(*zeros, durations, engine=name)
    with pytest.raises(ValueError, match=r"^engine='numba' is none of crf\.semi_markov; these"):
        semi_markov.viterbi(*zeros, np.zeros((2, 4)), engine="numba")
    with pytest.raises(ValueError, match=r"^lengths must be in 0\.\.3"):
        semi_markov.viterbi(*zeros, np.zeros((2, 4)), np.array([4, 0]), engine=name)


@pytest.mark.parametrize("shape", ((0, 4, 3), (2, 0, 3), (0, 0, 3)), ids=str)
@pytest.mark.parametrize("name", engines_of("crf.semi_markov"))
def test_an_empty_batch_or_no_steps_works(name, shape):
    scores = np.zeros(shape), np.ones((3, 3)), np.ones((2, 3))
    for function in (semi_markov.log_partition, semi_markov.marginals, semi_markov.viterbi):
        found, expected = function(*scores, engine=name), function(*scores, engine="reference")
        found, expected = (a if isinstance(a, tuple) else (a,) for a in (found, expected))
        for result, zeros in zip(found, expected, strict=True):
            assert np.asarray(result).dtype == zeros.dtype
            np.testing.assert_array_equal(result, np.zeros(zeros.shape))


@pytest.mark.parametrize("name", ("keras", "tensorflow_native"))
def test_lengths_of_tensors_that_are_out_of_range_raise(name):
    tf = pytest.importorskip("tensorflow", reason="the tensors are TensorFlow's")
    scores = tf.zeros((2, 3, 4)), tf.zeros((4, 4)), tf.zeros((2, 4))
    for function in (semi_markov.log_partition, semi_markov.marginals, semi_markov.viterbi):
        for wrong in (4, -1):
            with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="must be in 0"):
                function(*scores, tf.constant([wrong, 0]), engine=name)


@pytest.mark.parametrize("name", ("keras", "tensorflow_native"))
def test_inside_xla(name, rng):
    tf = pytest.importorskip("tensorflow")
    scores = [rng.standard_normal(shape) for shape in ((2, 6, 3), (3, 3), (4, 3))]
    compiled = tf.function(semi_markov.log_partition, jit_compile=True)
    value = compiled(*map(tf.constant, scores), engine=name)
    np.testing.assert_allclose(value, semi_markov.log_partition(*scores), rtol=1e-12)


@pytest.mark.parametrize("name", engines_of("crf.semi_markov"))
def test_float32_is_as_accurate_as_its_result(name, rng):
    shapes = ((3, 60, 5), (5, 5), (7, 5))
    scores = [(3 * rng.standard_normal(shape)).astype("float32") for shape in shapes]
    exact = [array.astype("float64") for array in scores]
    lengths = np.array([60, 31, 0])
    log_z = semi_markov.log_partition(*scores, lengths, engine=name)
    np.testing.assert_allclose(
        log_z, semi_markov.log_partition(*exact, lengths, engine="reference"), rtol=2e-6
    )
    results = semi_markov.marginals(*scores, lengths, engine=name)
    expected = semi_markov.marginals(*exact, lengths, engine="reference")
    # the kernels round once; others sum hundreds of nats in float32 before taking the exponential
    relative, absolute = (1e-6, 1e-6) if "native" in name else (0, 2e-3)
    for result, of_reference in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, of_reference, rtol=relative, atol=absolute)
