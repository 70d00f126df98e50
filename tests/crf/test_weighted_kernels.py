"""The C++ kernels of likelihoods with weights of steps, where tests of all engines do not look."""

import numpy as np
import pytest
import tensorflow as tf

from accuracy import WIDER, assert_as_accurate_as_reference
from calls import checked, largest_score
from fastkeras import _core, crf
from fastkeras.crf._engines import reference

SCORES = ("emissions", "transitions", "start_transitions", "end_transitions")


def chain(rng, batch, steps, num_tags, dtype="float64", spread=1.0, mask=False, forbidden=()):
    """A batch whose lengths differ, or with holes in its mask, and a possible path of tags."""
    scores = {
        "emissions": spread * rng.standard_normal((batch, steps, num_tags)),
        "transitions": rng.standard_normal((num_tags, num_tags)),
        "start_transitions": rng.standard_normal(num_tags),
        "end_transitions": rng.standard_normal(num_tags),
    }
    for i, j in forbidden:
        scores["transitions"][i, j] = -np.inf
    given = {name: value.astype(dtype) for name, value in scores.items()}
    lengths = rng.integers(steps // 2, steps + 1, batch)
    lengths[-1] = 0
    given["lengths"] = lengths
    if mask:
        given["mask"] = rng.random((batch, steps)) < 0.7
    limits = {name: value for name, value in given.items() if name != "emissions"}
    given["tags"] = crf.viterbi(
        rng.standard_normal((batch, steps, num_tags)).astype(dtype), **limits
    )[0]
    return given


def gradients(given, weights, engine, factors=None):
    """The value, and its gradients by all scores and by the weights."""
    variables = [tf.constant(given[name]) for name in SCORES] + [tf.constant(weights)]
    rest = {name: value for name, value in given.items() if name not in SCORES}
    with tf.GradientTape() as tape:
        tape.watch(variables)
        scores = dict(zip((*SCORES, "weights"), variables, strict=True))
        value = crf.weighted_log_likelihood(**rest, **scores, engine=engine)
    factors = tf.ones_like(value) if factors is None else tf.constant(factors, value.dtype)
    return [value, *tape.gradient(value, variables, factors)]


SHAPES = {  # lanes with one section, two and four, a vector for each sequence, or more than one
    "lanes": (33, 40, 5),
    "two sections": (7, 70, 9),
    "four sections": (4, 71, 9),
    "vectors": (9, 40, 21),
}


@pytest.mark.parametrize("hard", (False, True))
@pytest.mark.parametrize("mask", (False, True))
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_the_keras_engine(shape, mask, hard, rng):
    forbidden = ((0, 1), (2, 3), (3, 3), (4, 0)) if hard else ()
    given = chain(rng, *SHAPES[shape], mask=mask, forbidden=forbidden)
    weights = rng.exponential(size=given["tags"].shape) * (rng.random(given["tags"].shape) < 0.8)
    factors = rng.standard_normal(len(weights))
    factors[0] = 0
    ours, theirs = (
        gradients(given, weights, engine, factors) for engine in ("tensorflow_native", "keras")
    )
    for one, other in zip(ours, theirs, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spread", (1.0, 30.0, 300.0))
@pytest.mark.parametrize("hard", (False, True))
@pytest.mark.parametrize("shape", SHAPES)
def test_as_accurate_as_the_reference(shape, hard, spread, rng):
    """At a spread of 300 nats most labels have no mass in float32, but a likelihood."""
    forbidden = ((0, 1), (2, 3), (3, 3), (4, 0)) if hard else ()
    given = chain(rng, *SHAPES[shape], dtype="float32", spread=spread, forbidden=forbidden)
    weights = rng.exponential(size=given["tags"].shape).astype("float32")
    value = crf.weighted_log_likelihood(**given, weights=weights, engine="native")
    checked_chain, tags = checked(given)
    exact, rounded = (
        reference.weighted_log_likelihood(
            checked_chain.with_scores(lambda scores, d=dtype: scores.astype(d)),
            tags,
            weights.astype(dtype),
        )
        for dtype in (WIDER["float32"], "float32")
    )
    scale = weights.max() * largest_score(given, given["tags"])
    assert_as_accurate_as_reference(value, exact, rounded, scale, scale * tags.shape[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_in_float32_are_those_in_float64(shape, rng):
    given = chain(rng, *SHAPES[shape], dtype="float32")
    weights = rng.exponential(size=given["tags"].shape).astype("float32")
    ours = gradients(given, weights, "tensorflow_native")
    wider = {n: v.astype("float64") if n in SCORES else v for n, v in given.items()}
    exact = gradients(wider, weights.astype("float64"), "tensorflow_native")
    for one, other in zip(ours, exact, strict=True):
        scale = max(1.0, np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6 * scale)


@pytest.mark.parametrize("gap, price", ((71.1, 31.5), (71.0, 31.0), (70.9, 30.0)))
def test_lanes_lift_no_element_that_lost_its_digits(gap, price):
    """Its row is scaled up just where the gold tag is so far behind that it is a denormal."""
    emissions, zeros = np.zeros((16, 6, 2), "float32"), np.zeros(2, "float32")
    emissions[:, :, 1] = -gap
    transitions = np.array([[-price, -price], [-price, 0]], "float32")
    tags = np.tile(np.array([0, 0, 0, 1, 0, 0], "int32"), (16, 1))
    weights = np.tile(np.array([1, 1, 1, 1, 0, 0], "float32"), (16, 1))

    def of_the_first(batch):
        ones, lengths = np.ones(batch, "float32"), np.full(batch, 6, "int32")
        scores = emissions[:batch], transitions, lengths, None, zeros, zeros
        given = *scores, tags[:batch], weights[:batch]
        value, log_p, kept = _core.crf_weighted_value(*given, True, 1)
        by_emissions = _core.crf_weighted_gradient(*given, value, kept, ones, 1)[0]
        return value[0], log_p[0], by_emissions[0]

    for of_lanes, alone in zip(of_the_first(16), of_the_first(1), strict=True):
        np.testing.assert_allclose(of_lanes, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_tags", (5, 21))
def test_long_chains_keep_their_digits(num_tags, rng):
    """Weights that alternate add to the derivatives at each step, with both signs."""
    given = chain(rng, 9, 3000, num_tags, dtype="float32")
    weights = (rng.random((9, 3000)) < 0.5).astype("float32")
    ours = gradients(given, weights, "tensorflow_native")
    wider = {n: v.astype("float64") if n in SCORES else v for n, v in given.items()}
    exact = gradients(wider, weights.astype("float64"), "tensorflow_native")
    for one, other in zip(ours[1:], exact[1:], strict=True):
        scale = max(1.0, np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6 * scale)


def test_weights_of_one_give_the_gradient_of_the_likelihood(rng):
    given = chain(rng, 20, 50, 7)
    ones = np.ones(given["tags"].shape)
    _, *ours, _ = gradients(given, ones, "tensorflow_native")
    _, theirs = crf.log_likelihood_and_gradients(**given, engine="native")
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_bits_do_not_depend_on_the_number_of_threads(dtype, rng):
    given = chain(rng, 40, 300, 9, dtype)
    weights = rng.random(given["tags"].shape).astype(dtype)
    checked_chain, tags = checked(given)
    results = []
    for threads in (1, 2, 5):
        value, log_p, workspace = _core.crf_weighted_value(
            *checked_chain, tags, weights, True, threads
        )
        factors = np.ones_like(value)
        parts = _core.crf_weighted_gradient(
            *checked_chain, tags, weights, value, workspace, factors, threads
        )
        results.append((value, log_p, *parts))
    for one in results[1:]:
        for array, first in zip(one, results[0], strict=True):
            np.testing.assert_array_equal(array, first)


@pytest.mark.parametrize("batch", (6, 33))
@pytest.mark.parametrize("num_tags", (3, 20))
def test_a_nan_stays_in_its_sequence(num_tags, batch, rng):
    """Where steps go backwards, those that a lane lacks are read from the sequence before it."""
    given = chain(rng, batch, 40, num_tags)
    given["lengths"][2:] = np.arange(batch - 2) % 40 + 1
    given["lengths"][2] = 40
    given["emissions"][2, 30:, 0] = np.nan
    weights = np.ones((batch, 40))
    value, d_emissions, *_ = gradients(given, weights, "tensorflow_native")
    assert np.isnan(value[2]) and np.isnan(d_emissions[2]).all()
    others = np.arange(batch) != 2
    assert np.isfinite(value.numpy()[others]).all()
    assert np.isfinite(d_emissions.numpy()[others]).all()
    factors = np.where(others, 1.0, 0.0)
    for gradient in gradients(given, weights, "tensorflow_native", factors)[1:]:
        assert np.isfinite(gradient).all()


def test_an_impossible_sequence_has_no_gradient(rng):
    given = chain(rng, 4, 6, 3)
    given["lengths"][:] = 6
    given["transitions"][0, 1] = -np.inf
    given["tags"][:] = 2
    given["tags"][1, 2:4] = (0, 1)
    value, *parts = gradients(given, np.ones((4, 6)), "tensorflow_native")
    assert value[1] == -np.inf and np.isfinite(value.numpy()[[0, 2, 3]]).all()
    assert not np.any(parts[0][1]) and not np.any(parts[-1][1])
    assert all(np.isfinite(part).all() for part in parts)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ("portable", "avx2", "avx512"))
def test_every_instruction_set_gives_the_same_numbers(name, shape, rng):
    given = chain(rng, *SHAPES[shape], forbidden=((0, 1), (2, 3)))
    weights = rng.random(given["tags"].shape)
    given["start_transitions"][1] = -100.0  # looked at, but its digits are kept
    chain_and_tags, before = checked(given), _core.instruction_set()
    results = []
    try:
        for each in (before, name):
            try:
                _core.set_instruction_set(each)
            except ValueError as error:
                pytest.skip(str(error))
            inputs = (*chain_and_tags[0], chain_and_tags[1], weights)
            value, log_p, workspace = _core.crf_weighted_value(*inputs, True)
            rest = value, workspace, np.ones_like(value)
            results.append((value, log_p, *_core.crf_weighted_gradient(*inputs, *rest)))
    finally:
        _core.set_instruction_set(before)
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)
