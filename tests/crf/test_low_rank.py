"""Transitions of low rank, in functions and in the layer."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from fastkeras import crf as functions  # noqa: E402
from fastkeras.layers import CRF  # noqa: E402

# Keras on TensorFlow saves with np.array(variable), of which NumPy 2 complains
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
    """Return the layer and a model of nothing else."""
    inputs = keras.Input((None, NUM_TAGS))
    crf = CRF(transition_rank=RANK, **arguments)
    return crf, keras.Model(inputs, crf(keras.layers.Masking(-1.0)(inputs)))


def factors_of(crf):
    """Return the factors as the transitions are made of them, in float64."""
    named = {weight.name: np.asarray(weight) for weight in crf.weights}
    assert len(named) == len(crf.weights)
    multiplier = crf.learning_rate_multiplier
    return [named[f"{side}_factor"].astype("float64") * multiplier for side in ("left", "right")]


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
    with pytest.raises(ValueError, match="transition_rank must be an integer >= 1 or None, got"):
        CRF(transition_rank=rank)
