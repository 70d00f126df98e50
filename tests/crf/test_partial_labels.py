"""The likelihood of sets of tags: by enumeration, accuracy of engines, gradients, bad input."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastkeras
from accuracy import WIDER, assert_as_accurate_as_reference
from calls import call, call_reference, largest_score
from enumeration import enumerate_paths, probabilities
from fastkeras import crf
from fastkeras.layers import CRF
from strategies import chains

TENSOR_ENGINES = ("tensorflow_native", "keras")


def log_likelihood_of_sets(chain, allowed, engine):
    chain = {name: value for name, value in chain.items() if name != "tags"}
    return np.asarray(crf.log_likelihood_of_sets(allowed=allowed, **chain, engine=engine))


def draw_sets(seed, chain, share):
    """Return a bitmap that allows the tags of the chain and some more."""
    rng = np.random.default_rng(seed)
    shape = chain["emissions"].shape
    return (rng.random(shape) < share) | (chain["tags"][..., None] == np.arange(shape[2]))


seeds, shares = st.integers(0, 2**32 - 1), st.sampled_from((0.0, 0.3, 0.7, 1.0))


@given(
    chain=chains(dtype="float64", num_tags=(1, 2, 3), max_steps=5, scales=(0.1, 1.0, 30.0)),
    seed=seeds,
    share=shares,
)
def test_of_the_reference_it_is_the_sum_over_the_set(chain, seed, share):
    allowed = draw_sets(seed, chain, share)
    value = log_likelihood_of_sets(chain, allowed, "reference")
    for b, (steps, paths, scores) in enumerate(enumerate_paths(chain)):
        if len(steps) == 0:
            assert value[b] == 0
            continue
        inside = allowed[b, steps, paths].all(axis=1)
        log_z, _ = probabilities(scores)
        log_sum = probabilities(np.where(inside, scores, -np.inf))[0]
        expected = log_sum - log_z if np.isfinite(log_sum) else -np.inf
        np.testing.assert_allclose(value[b], expected, rtol=1e-12, atol=1e-10)


@given(chain=chains(), seed=seeds, share=shares)
def test_an_engine_is_as_accurate_as_the_reference(engine, chain, seed, share):
    allowed = draw_sets(seed, chain, share)
    inside = {**chain, "emissions": np.where(allowed, chain["emissions"], -np.inf)}
    dtype = chain["emissions"].dtype.name
    inside["emissions"] = inside["emissions"].astype(dtype)

    def difference(dtype):
        (log_sum,) = call_reference("log_partition", inside, dtype)
        possible = np.isfinite(log_sum)
        log_z = np.where(possible, call_reference("log_partition", chain, dtype)[0], 0)
        return np.minimum(log_sum - log_z, 0)

    steps = chain["tags"].shape[1]
    scale = max(largest_score(chain), largest_score(inside))
    assert_as_accurate_as_reference(
        log_likelihood_of_sets(chain, allowed, engine),
        difference(WIDER[dtype]),
        difference(dtype),
        scale,
        scale * steps,
        steps=2,  # it is computed from two likelihoods
    )


def test_many_steps_in_float32_lose_no_digit(engine, rng):
    if engine == "reference":
        pytest.skip("the reference is not recentred: in float32 it is one of those that drift")
    emissions = rng.standard_normal((1, 4096, 4)).astype("float32")
    transitions = rng.standard_normal((4, 4)).astype("float32")
    allowed = np.ones(emissions.shape, bool)
    allowed[0, ::1024, :2] = False
    chain = {"emissions": emissions, "transitions": transitions}
    value = log_likelihood_of_sets(chain, allowed, engine)
    wider = {name: array.astype("float64") for name, array in chain.items()}
    inside = {**wider, "emissions": np.where(allowed, wider["emissions"], -np.inf)}
    exact = call("log_partition", inside, "native")[0] - call("log_partition", wider, "native")[0]
    # both are likelihoods of a whole path, thousands of nats, with the 7 digits of float32
    np.testing.assert_allclose(value, exact, rtol=0, atol=2e-3)


def test_known_tags_alone_give_the_likelihood_and_unknown_ones_alone_give_certainty(engine, rng):
    emissions, transitions = rng.standard_normal((2, 5, 3)), rng.standard_normal((3, 3))
    tags = rng.integers(0, 3, (2, 5))
    chain = {"emissions": emissions, "transitions": transitions}
    known = crf.constraints.bitmap_of_tags(tags, 3)
    (likelihood,) = call("log_likelihood", {**chain, "tags": tags}, engine)
    np.testing.assert_allclose(log_likelihood_of_sets(chain, known, engine), likelihood, rtol=1e-12)
    unknown = np.ones((1, 1, 3), bool)
    np.testing.assert_allclose(log_likelihood_of_sets(chain, unknown, engine), 0, atol=1e-12)


def test_an_empty_set_is_impossible(engine):
    chain = {"emissions": np.zeros((2, 3, 2)), "transitions": np.zeros((2, 2))}
    allowed = np.ones((2, 3, 2), bool)
    allowed[0, 1] = False
    value = log_likelihood_of_sets(chain, allowed, engine)
    np.testing.assert_allclose(value, [-np.inf, 0], atol=1e-15)


@pytest.mark.parametrize("tensor_engine", TENSOR_ENGINES)
@settings(max_examples=15)
@given(chain=chains(dtype="float64", scales=(1.0,), num_tags=(1, 3, 5)), seed=seeds, share=shares)
def test_the_gradient_is_the_difference_of_marginals(tensor_engine, chain, seed, share):
    tf = pytest.importorskip("tensorflow")
    if fastkeras.engines("crf")[tensor_engine] != "ready":
        pytest.skip(fastkeras.engines("crf")[tensor_engine])
    allowed = draw_sets(seed, chain, share)
    inside = {**chain, "emissions": np.where(allowed, chain["emissions"], -np.inf)}
    variables = {name: tf.constant(chain[name]) for name in ("emissions", "transitions")}
    given = {name: value for name, value in chain.items() if name != "tags"}
    with tf.GradientTape() as tape:
        tape.watch(variables)
        value = crf.log_likelihood_of_sets(
            **{**given, **variables}, allowed=tf.constant(allowed), engine=tensor_engine
        )
    gradient = tape.gradient(value, variables)
    possible = np.isfinite(value)
    unary, counts = (
        (a - b)[possible]
        for a, b in zip(
            call("marginals", inside, "reference"),
            call("marginals", chain, "reference"),
            strict=True,
        )
    )
    np.testing.assert_allclose(gradient["emissions"][possible], unary, rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(gradient["emissions"][~possible], 0)
    np.testing.assert_allclose(gradient["transitions"], counts.sum(axis=0), rtol=1e-9, atol=1e-11)


def test_bad_sets_raise(engine):
    chain = {"emissions": np.zeros((2, 3, 4)), "transitions": np.zeros((4, 4))}
    for wrong in (np.ones((2, 3, 4)), np.ones((2, 3), bool), np.ones((2, 3, 3), bool)):
        with pytest.raises(ValueError, match=r"^allowed must "):
            log_likelihood_of_sets(chain, wrong, engine)


def test_the_loss_of_the_page_takes_masked_inputs(request, rng):
    import keras

    page = (request.config.rootpath / "docs" / "crf.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(def loss\(bitmap.*?)```", page, re.DOTALL)
    layer = CRF(3)
    names = {"keras": keras, "crf": layer, "log_likelihood_of_sets": crf.log_likelihood_of_sets}
    exec(snippet, names)
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, layer(keras.layers.Masking()(inputs)))
    model.compile("sgd", names["loss"])
    x, bitmap = rng.standard_normal((4, 5, 3)).astype("float32"), rng.random((4, 5, 3)) < 0.7
    x[1, 3:] = x[2, :2] = 0
    bitmap[..., 0] = True
    log_p = crf.log_likelihood_of_sets(allowed=bitmap, **layer.arguments(model(x)))
    loss = model.evaluate(x, bitmap, verbose=0)
    np.testing.assert_allclose(loss, -np.mean(log_p), rtol=1e-5)
    model.fit(x, bitmap, epochs=3, verbose=0)
    assert model.evaluate(x, bitmap, verbose=0) < loss
