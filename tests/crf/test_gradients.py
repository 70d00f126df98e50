"""Gradients, compared with numeric derivatives, identities, and automatic differentiation."""

import numpy as np
import pytest
from hypothesis import given, settings

import fastkeras
from accuracy import assert_as_accurate_as_reference
from calls import call, call_reference, largest_score
from strategies import chains, is_valid

PARAMETERS = ("emissions", "transitions", "start_transitions", "end_transitions")
STEP = 1e-3
TAPE_ENGINES = ("tensorflow_native", "keras")

complete = chains(dtype="float64", num_tags=(1, 3), scales=(1.0,), forbidden=(None,), max_steps=4)


def with_boundaries(chain):
    """Return the chain with start and end transitions that are never None."""
    zeros = np.zeros(chain["emissions"].shape[-1], chain["emissions"].dtype)
    given = {name: zeros for name in PARAMETERS if chain[name] is None}
    return {**chain, **given}


def weights_of(chain):
    return np.linspace(-1, 2, len(chain["emissions"])).astype(chain["emissions"].dtype)


def derivative(function, array):
    """Central differences of 4th order of a scalar function, element by element."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):

        def moved(steps, index=index):
            point = array.copy()
            point[index] += steps * STEP
            return function(point)

        far, near = moved(2) - moved(-2), moved(1) - moved(-1)
        gradient[index] = (8 * near - far) / (12 * STEP)
    return gradient


@settings(max_examples=12)
@given(chain=complete)
def test_gradients_are_the_numeric_derivatives_of_the_value(engine, chain):
    if engine in TAPE_ENGINES:
        # A tensor engine takes milliseconds per call, and the tape differentiates it below.
        chain = {**chain, "emissions": chain["emissions"][:1], "tags": chain["tags"][:1]}
        lengths, mask = chain["lengths"], chain["mask"]
        chain["lengths"] = None if lengths is None else lengths[:1]
        chain["mask"] = None if mask is None else mask[:1]
    chain, weights = with_boundaries(chain), weights_of(chain)
    _, *gradients = call("log_likelihood_and_gradients", chain, engine, weights=weights)
    varied = PARAMETERS if engine not in TAPE_ENGINES else PARAMETERS[1:]
    for name in varied:

        def weighted_sum(array, name=name):
            return weights @ call("log_likelihood", {**chain, name: array}, engine)[0]

        actual = gradients[PARAMETERS.index(name)]
        expected = derivative(weighted_sum, chain[name])
        np.testing.assert_allclose(actual, expected, rtol=5e-6, atol=1e-10)


@settings(max_examples=12)
@given(chain=complete)
def test_marginals_are_the_derivatives_of_log_z(engine, chain):
    if engine in TAPE_ENGINES:
        chain = {**chain, "mask": None, "lengths": None}
    unary, counts = call("marginals", chain, engine)

    def log_z(**changed):
        return call("log_partition", {**chain, **changed}, engine)[0].sum()

    if engine not in TAPE_ENGINES:
        numeric = derivative(lambda x: log_z(emissions=x), chain["emissions"])
        np.testing.assert_allclose(unary, numeric, rtol=5e-6, atol=1e-10)
    numeric = derivative(lambda a: log_z(transitions=a), chain["transitions"])
    np.testing.assert_allclose(counts.sum(axis=0), numeric, rtol=5e-6, atol=1e-10)


@given(chain=chains(scales=(0.1, 1.0, 30.0)))
def test_marginals_and_gradients_sum_to_what_they_must(engine, chain):
    x = chain["emissions"]
    valid = is_valid(chain["lengths"], chain["mask"], *x.shape[:2])
    possible = np.isfinite(call("log_partition", chain, engine)[0])
    unary, counts = call("marginals", chain, engine)
    taking_part = valid & possible[:, None]
    tolerance = 8 * x.shape[-1] * np.finfo(x.dtype).eps * max(1, largest_score(chain))
    np.testing.assert_allclose(unary.sum(axis=-1), taking_part, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(unary[~taking_part], 0)
    pairs = np.maximum(taking_part.sum(axis=1) - 1, 0)
    np.testing.assert_allclose(counts.sum(axis=(1, 2)), pairs, rtol=tolerance, atol=0)

    value, d_emissions, d_transitions, d_start, d_end = call(
        "log_likelihood_and_gradients", chain, engine
    )
    np.testing.assert_array_equal(d_emissions[~valid], 0)
    np.testing.assert_array_equal(d_emissions[np.isneginf(value)], 0)
    sums = d_emissions.sum(axis=-1), d_transitions.sum(), d_start.sum(), d_end.sum()
    for total in sums:
        np.testing.assert_allclose(total, 0, rtol=0, atol=tolerance * x.shape[0] * x.shape[1])


@given(chain=chains())
def test_weights_scale_the_gradients_of_each_sequence(engine, chain):
    weights = weights_of(chain)
    dtype = chain["emissions"].dtype.name
    results = call("log_likelihood_and_gradients", chain, engine, weights=weights)
    wider = "float64" if dtype == "float32" else "longdouble"
    exact = call_reference("log_likelihood_and_gradients", chain, wider, weights)
    rounded = call_reference("log_likelihood_and_gradients", chain, dtype, weights)
    scale = 2 * largest_score(chain)  # since the largest weight is 2
    for arrays in zip(results[1:], exact[1:], rounded[1:], strict=True):
        assert_as_accurate_as_reference(*arrays, scale)


@pytest.mark.parametrize("name", TAPE_ENGINES)
@pytest.mark.parametrize("function", ("log_partition", "sequence_score", "log_likelihood"))
@given(chain=chains(max_steps=5))
def test_the_tape_gives_the_gradients_of_the_reference(name, function, chain):
    state = fastkeras.engines("crf")[name]
    if state != "ready":
        pytest.skip(state)
    tf = pytest.importorskip("tensorflow", reason="a tape needs TensorFlow")
    chain, weights = with_boundaries(chain), weights_of(chain)
    tensors = {k: v if v is None else tf.constant(v) for k, v in chain.items()}
    parameters = [tensors[k] for k in PARAMETERS]
    if function == "log_partition":
        del tensors["tags"]
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        value = getattr(fastkeras.crf, function)(**tensors, engine=name)
        # An impossible sequence has an infinite value, and times a weight of 0 that is NaN.
        total = tf.reduce_sum(
            tf.where(tf.math.is_inf(value), tf.zeros_like(value), value) * weights
        )
    gradients = tape.gradient(total, parameters, unconnected_gradients="zero")
    dtype = chain["emissions"].dtype.name
    wider = "float64" if dtype == "float32" else "longdouble"
    exact = _reference_gradients(function, chain, weights, wider)
    rounded = _reference_gradients(function, chain, weights, dtype)
    scale = 2 * largest_score(chain)
    for gradient, truth, peer in zip(gradients, exact, rounded, strict=True):
        assert_as_accurate_as_reference(gradient.numpy(), truth, peer, scale)


def _reference_gradients(function, chain, weights, dtype):
    """Return the gradients of the weighted sum of a value, from functions of the reference."""
    weights = weights.astype(dtype)
    unary, counts = call_reference("marginals", chain, dtype)
    batch, steps, _ = unary.shape
    valid = is_valid(chain["lengths"], chain["mask"], batch, steps)
    gold, gold_counts = np.zeros_like(unary), np.zeros_like(counts)
    finite = np.isfinite(call_reference(function, chain, dtype)[0])
    for b in range(batch):
        path = chain["tags"][b, valid[b]]
        gold[b, valid[b], path] = 1
        np.add.at(gold_counts[b], (path[:-1], path[1:]), 1)
    by_function = {
        "log_partition": (unary, counts),
        "sequence_score": (gold, gold_counts),
        "log_likelihood": (gold - unary, gold_counts - counts),
    }
    d_unary, d_counts = by_function[function]
    weights = np.where(finite, weights, 0)
    d_unary = weights[:, None, None] * d_unary
    first = np.array([valid[b].argmax() for b in range(batch)])
    last = np.array([steps - 1 - valid[b, ::-1].argmax() for b in range(batch)])
    rows = np.arange(batch)
    return [
        d_unary,
        (weights[:, None, None] * d_counts).sum(axis=0),
        (d_unary[rows, first]).sum(axis=0),
        (d_unary[rows, last]).sum(axis=0),
    ]


@pytest.mark.parametrize("num_tags", (2, 20))
def test_the_largest_weight_may_be_that_of_an_impossible_sequence(engine, num_tags, rng):
    x = rng.standard_normal((8, 3, num_tags)).astype("float32")
    x[1, 1] = -np.inf
    chain = {"emissions": x, "tags": np.zeros((8, 3), int)}
    chain["transitions"] = rng.standard_normal((num_tags, num_tags)).astype("float32")
    weights = np.array([1e-8, 1e32, *[1e-8] * 6], "float32")
    found = call("log_likelihood_and_gradients", chain, engine, weights=weights)
    expected = call("log_likelihood_and_gradients", chain, "reference", weights=weights)
    for gradient, right in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(1e8 * gradient, 1e8 * right, atol=1e-5)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_an_impossible_sequence_has_no_gradient_and_harms_no_other(engine, dtype):
    x = np.zeros((3, 3, 2), dtype)
    x[1, 1] = -np.inf  # no tag is left at this step
    transitions = np.array([[0, -np.inf], [-1e4, 0]], dtype)
    chain = {
        "emissions": x,
        "tags": np.array([[0, 0, 0], [0, 0, 0], [0, 1, 1]]),  # the last one is forbidden
        "transitions": transitions,
        "lengths": None,
        "mask": None,
        "start_transitions": None,
        "end_transitions": None,
    }
    value, d_x, *others = call("log_likelihood_and_gradients", chain, engine)
    alone = {**chain, "emissions": x[:1], "tags": chain["tags"][:1]}
    value_alone, d_x_alone, *others_alone = call("log_likelihood_and_gradients", alone, engine)
    assert value.tolist()[1:] == [-np.inf, -np.inf]
    assert value[0] == value_alone[0]
    np.testing.assert_allclose(value[0], -np.log(2), rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(d_x[1:], 0)
    np.testing.assert_array_equal(d_x[:1], d_x_alone)
    for gradient, gradient_alone in zip(others, others_alone, strict=True):
        np.testing.assert_array_equal(gradient, gradient_alone)
    unary, counts = call("marginals", chain, engine)
    np.testing.assert_array_equal(unary[1], 0)
    np.testing.assert_array_equal(counts[1], 0)
