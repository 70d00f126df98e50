"""Transitions of low rank, in the functions and in the layer."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from calls import FUNCTIONS, call  # noqa: E402
from fastkeras import crf as functions  # noqa: E402
from fastkeras.layers import CRF  # noqa: E402

# NumPy 2 warns when Keras on TensorFlow saves variables with np.array(variable)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NUM_TAGS, RANK = 6, 2


@pytest.fixture
def data(rng):
    """Emissions, tags and a mask with a masked first step, a hole and padding."""
    mask = np.ones((5, 7), bool)
    mask[0, 0] = mask[1, 3] = mask[2, 4:] = False
    emissions = rng.standard_normal((5, 7, NUM_TAGS)).astype("float32")
    return emissions, rng.integers(0, NUM_TAGS, (5, 7)), mask


def tagger(**arguments):
    """Return the layer and a model of this layer alone."""
    inputs = keras.Input((None, NUM_TAGS))
    crf = CRF(transition_rank=RANK, **arguments)
    return crf, keras.Model(inputs, crf(keras.layers.Masking(-1.0)(inputs)))


def factors_of(crf):
    """Return the factors of which the transitions are the product, in float64."""
    named = {weight.name: np.asarray(weight) for weight in crf.weights}
    assert len(named) == len(crf.weights)
    multiplier = crf.learning_rate_multiplier
    return [named[f"{side}_factor"].astype("float64") * multiplier for side in ("left", "right")]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_take_the_factors_for_the_product(engine, function, rng):
    left, right = rng.standard_normal((2, NUM_TAGS, RANK))
    chain = {
        "emissions": rng.standard_normal((3, 5, NUM_TAGS)),
        "tags": rng.integers(0, NUM_TAGS, (3, 5)),
        "transitions": functions.LowRank(left, right),
    }
    results = call(function, chain, engine)
    expected = call(function, {**chain, "transitions": left @ right.T}, engine)
    if function == "log_likelihood_and_gradients":
        d_product = expected.pop(2)
        expected[2:2] = [d_product @ right, d_product.T @ left]
    for result, exact in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, exact, rtol=1e-12, atol=1e-12)


def test_the_tape_reaches_both_factors(rng):
    left, right = (tf.constant(factor) for factor in rng.standard_normal((2, NUM_TAGS, RANK)))
    emissions = tf.constant(rng.standard_normal((3, 5, NUM_TAGS)))
    tags = rng.integers(0, NUM_TAGS, (3, 5))
    with tf.GradientTape() as tape:
        tape.watch([left, right])
        transitions = functions.LowRank(left, right)
        value = functions.log_likelihood(emissions, tags, transitions)
    results = tape.gradient(value, [left, right])
    _, exact = functions.log_likelihood_and_gradients(
        emissions.numpy(), tags, functions.LowRank(left.numpy(), right.numpy())
    )
    for result, truth in zip(results, exact.transitions, strict=True):
        np.testing.assert_allclose(result, truth, rtol=1e-11, atol=1e-12)


def test_factors_that_do_not_fit_are_refused_by_name():
    emissions = np.zeros((1, 2, NUM_TAGS))
    for shapes, message in (
        (
            ((3, 2), (NUM_TAGS, 2)),
            r"transitions\.left must have shape \(num_tags, rank\) = \(6, 2\)",
        ),
        (((NUM_TAGS, 2), (NUM_TAGS, 3)), r"transitions\.right must have shape that of the left"),
        (((NUM_TAGS,), (NUM_TAGS,)), r"transitions\.left must have shape \(num_tags, rank\)"),
    ):
        with pytest.raises(ValueError, match=message):
            functions.viterbi(emissions, functions.LowRank(*(np.zeros(s) for s in shapes)))


@pytest.mark.parametrize("multiplier", (1.0, 5.0))
def test_the_layer_has_the_transitions_and_the_gradients_of_its_factors(data, multiplier):
    emissions, tags, mask = data
    crf, _ = tagger(learning_rate_multiplier=multiplier)
    left, right = factors_of(crf)
    assert left.shape == right.shape == (NUM_TAGS, RANK)
    assert sum(w.shape.num_elements() for w in crf.weights) == 2 * RANK * NUM_TAGS + 2 * NUM_TAGS
    np.testing.assert_allclose(crf.transitions, left @ right.T, rtol=1e-5, atol=1e-6)
    assert np.linalg.matrix_rank(left @ right.T) == RANK
    with tf.GradientTape() as tape:
        loss = crf.loss(tags, crf(emissions, mask=mask))
    weights = {weight.name: weight.value for weight in crf.weights}
    gradients = tape.gradient(loss, weights)
    _, exact = functions.log_likelihood_and_gradients(
        emissions.astype("float64"),
        tags,
        left @ right.T,
        mask=mask,
        weights=np.full(5, -multiplier / 5),
    )
    d_transitions = exact.transitions
    options = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(gradients["left_factor"], d_transitions @ right, **options)
    np.testing.assert_allclose(gradients["right_factor"], d_transitions.T @ left, **options)


def test_it_learns_what_has_this_rank(rng):
    left, right = rng.standard_normal((2, NUM_TAGS, RANK))
    emissions = np.zeros((400, 12, NUM_TAGS))
    tags = functions.sample(emissions, left @ right.T, num_samples=1, seed=1)[0]
    crf, model = tagger(use_boundaries=False)
    model.compile(keras.optimizers.Adam(0.1), loss=crf.loss)
    model.fit(emissions, tags, epochs=30, batch_size=50, verbose=0)
    best = -functions.log_likelihood(emissions, tags, left @ right.T).mean()
    assert model.evaluate(emissions, tags, verbose=0) < best + 0.05


def test_saved_and_loaded_with_constraints(data, tmp_path):
    emissions, _, _ = data
    rules = functions.constraints.allowed("BIO", ["O", "B-A", "I-A", "B-B", "I-B", "B-C"])
    crf, model = tagger(constraints=rules)
    assert np.isneginf(np.asarray(crf.transitions)[~rules.transitions]).all()
    predicted = crf.decode(model).predict(emissions, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.layers[-1]
    assert again.transition_rank == RANK
    np.testing.assert_array_equal(again.transitions, crf.transitions)
    np.testing.assert_array_equal(again.decode(loaded).predict(emissions, verbose=0), predicted)


@pytest.mark.parametrize("rank", (0, -1, 1.5, "full"))
def test_a_rank_that_is_none_is_refused(rank):
    with pytest.raises(
        ValueError, match=r"transition_rank=.* must be None or an integer of at least 1"
    ):
        CRF(transition_rank=rank)
