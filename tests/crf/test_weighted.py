"""Weights of tags and steps, smoothed labels: by enumeration, identities, gradients, the loss."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from fastkeras import crf
from fastkeras.layers import CRF, MEMM
from fastkeras.losses import CRFLoss

# NumPy 2 warns when Keras saves variables with np.array(variable)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS, NUM_TAGS = 4, 3


def chain(rng, batch=3, dtype="float64", hard=False):
    """Scores; with `hard`, some are −inf, but some sequences remain possible."""
    scores = {
        "emissions": 2 * rng.standard_normal((batch, STEPS, NUM_TAGS)),
        "transitions": 2 * rng.standard_normal((NUM_TAGS, NUM_TAGS)),
        "start_transitions": rng.standard_normal(NUM_TAGS),
        "end_transitions": rng.standard_normal(NUM_TAGS),
    }
    if hard:
        scores["transitions"][0, 1] = scores["emissions"][:, 1, 0] = -np.inf
    return {name: value.astype(dtype) for name, value in scores.items()}


def distribution(scores, valid, b):
    """Every sequence over the valid steps of one chain, and its log-probability."""
    x = scores["emissions"][b][valid[b]]
    paths = np.array(list(itertools.product(range(NUM_TAGS), repeat=len(x))))
    total = scores["start_transitions"][paths[:, 0]] + scores["end_transitions"][paths[:, -1]]
    total = total + x[np.arange(len(x)), paths].sum(axis=1)
    total = total + scores["transitions"][paths[:, :-1], paths[:, 1:]].sum(axis=1)
    return paths, total - np.logaddexp.reduce(total)


def conditionals(paths, log_p, path):
    """log p(y_t | the tags before), by summing over the sequences with the same beginning."""
    begins = [
        np.logaddexp.reduce(log_p[(paths[:, :t] == path[:t]).all(axis=1)])
        for t in range(len(path) + 1)
    ]
    return np.diff(begins)


MASK = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0]], bool)
TAGS = np.array([[2, 1, 0, 2], [7, 1, -100, 2], [1, 2, 2, -100]])
WEIGHTS = {
    "by tag": np.array([0.5, 2.0, 3.0]),
    "by step": np.array([[0.3, 1.0, 0.0, 2.0], [9.0, 1.5, 9.0, 0.7], [1.0, 4.0, 0.2, 9.0]]),
}


ENGINES = ("native", "reference", "tensorflow_native", "keras")


def on(engine, value):
    return tf.constant(value) if engine in ("keras", "tensorflow_native") else value


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("hard", (False, True))
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_are_those_of_conditional_probabilities(kind, hard, engine, rng):
    scores, weights = chain(rng, hard=hard), WEIGHTS[kind]
    given = {name: on(engine, value) for name, value in scores.items()}
    given |= {"tags": on(engine, TAGS), "mask": on(engine, MASK), "weights": on(engine, weights)}
    got = crf.weighted_log_likelihood(**given, engine=engine)
    for b in range(3):
        path = TAGS[b][MASK[b]]
        of_steps = weights[path] if kind == "by tag" else weights[b][MASK[b]]
        expected = of_steps @ conditionals(*distribution(scores, MASK, b), path)
        assert float(got[b]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("varying", (False, True))
@pytest.mark.parametrize("engine", ENGINES)
def test_weights_of_one_change_nothing(engine, varying, rng):
    scores = chain(rng)
    tags = rng.integers(0, NUM_TAGS, (3, STEPS))
    if varying:
        scores["transitions"] = rng.standard_normal((3, STEPS - 1, NUM_TAGS, NUM_TAGS))
    given = {name: on(engine, value) for name, value in scores.items()} | {"tags": on(engine, tags)}
    ones = on(engine, np.ones(NUM_TAGS))
    weighted = crf.weighted_log_likelihood(**given, weights=ones, engine=engine)
    np.testing.assert_allclose(weighted, crf.log_likelihood(**given), rtol=1e-12)


@pytest.mark.parametrize(("engine", "jit_compile"), ((None, False), ("keras", False), (None, True)))
def test_gradients_are_those_of_differences(engine, jit_compile, rng):
    scores = chain(rng)
    weights, direction = WEIGHTS["by step"], chain(rng)

    def value(scores):
        given = {**scores, "tags": TAGS, "mask": MASK, "weights": weights}
        return crf.weighted_log_likelihood(**given, engine="reference").sum()

    def moved(by):
        return value({name: scores[name] + by * direction[name] for name in scores})

    h = 1e-3
    expected = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)

    @tf.function(jit_compile=jit_compile)
    def gradients(tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            given = {**tensors, "tags": TAGS, "mask": MASK, "weights": weights, "engine": engine}
            total = tf.reduce_sum(crf.weighted_log_likelihood(**given))
        return tape.gradient(total, tensors)

    found = gradients({name: tf.constant(value) for name, value in scores.items()})
    total = sum(np.sum(found[name] * direction[name]) for name in scores)
    assert total == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_impossible_sequence(engine, rng):
    scores = chain(rng, batch=1)
    scores["transitions"][1, 2] = -np.inf
    given = {name: on(engine, value) for name, value in scores.items()}
    tags = on(engine, np.array([[0, 1, 2, 0]]))
    weights = on(engine, np.zeros(NUM_TAGS))
    given["engine"] = engine
    assert crf.weighted_log_likelihood(tags=tags, weights=weights, **given) == [-np.inf]
    assert crf.smoothed_log_likelihood(tags=tags, label_smoothing=0.1, **given) == [-np.inf]


@pytest.mark.parametrize("exact", (False, True))
@pytest.mark.parametrize("engine", ("tensorflow_native", "keras"))
def test_a_weight_that_is_not_finite_makes_its_sequence_nan(engine, exact, rng):
    """It is no −inf, which would be that of an impossible sequence, without a gradient."""
    scores, weights = chain(rng), np.ones((3, STEPS))
    weights[1, 2] = np.inf
    if exact:  # behind by more than the scaled domain holds
        scores["emissions"][:, 1, 2], scores["transitions"][:, :2] = -2000, -np.inf
    given = {name: on(engine, value) for name, value in scores.items()}
    with tf.GradientTape() as tape:
        tape.watch(given["emissions"])
        value = crf.weighted_log_likelihood(
            tags=on(engine, np.full((3, STEPS), 2)), weights=on(engine, weights), **given,
            engine=engine,
        )  # fmt: skip
    gradient = tape.gradient(value, given["emissions"])
    for part in (value, gradient):
        assert np.isnan(part[1]).any() and np.isfinite(part.numpy()[[0, 2]]).all()


def test_far_emissions_keep_their_digits():
    """At 200 nats, the probability of the label is 0 in float32, but its logarithm is not lost."""
    emissions = np.array([[[0, -200], [0, -200], [0, -200]]], "float32")
    tags, zeros, weights = np.array([[1, 1, 0]]), np.zeros((2, 2), "float32"), np.array([1.0, 2.0])
    for engine in ENGINES:
        value = crf.weighted_log_likelihood(
            *(on(engine, x) for x in (emissions, tags, zeros)),
            weights=on(engine, weights),
            engine=engine,
        )
        np.testing.assert_array_equal(value, [-800])


@pytest.mark.parametrize("engine", ("native", "reference", "tensorflow_native", "keras"))
@pytest.mark.parametrize("hard", (False, True))
def test_smoothing_is_towards_all_possible_sequences(hard, engine, rng):
    scores = chain(rng, hard=hard)
    of = tf.constant if engine in ("tensorflow_native", "keras") else np.asarray
    got = crf.smoothed_log_likelihood(
        tags=of(TAGS),
        mask=of(MASK),
        label_smoothing=0.2,
        engine=engine,
        **{name: of(value) for name, value in scores.items()},
    )
    for b in range(3):
        paths, log_p = distribution(scores, MASK, b)
        label = log_p[(paths == TAGS[b][MASK[b]]).all(axis=1)].item()
        expected = 0.8 * label + 0.2 * log_p[log_p > -np.inf].mean()
        assert float(got[b]) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("hard", (False, True))
@pytest.mark.parametrize("weights", (None, "by tag"))
def test_the_kernel_gives_the_gradient_of_the_keras_engine(weights, hard, rng):
    scores = {name: tf.constant(value) for name, value in chain(rng, hard=hard).items()}
    names = ("emissions", "transitions", "start_transitions", "end_transitions")

    def gradients(engine):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = crf.smoothed_log_likelihood(
                tags=TAGS,
                mask=MASK,
                label_smoothing=0.3,
                weights=WEIGHTS[weights] if weights else None,
                engine=engine,
                **scores,
            )
        return tape.gradient(value, [scores[name] for name in names])

    for ours, theirs in zip(gradients(None), gradients("keras"), strict=True):
        assert np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("softened", ({"label_smoothing": 0.1}, {"tag_weights": [1.0, 5.0, 2.0]}))
@pytest.mark.parametrize("jit_compile", (False, True))
def test_the_loss_trains_and_is_saved(jit_compile, softened, tmp_path, rng):
    keras.utils.set_random_seed(0)
    x = rng.standard_normal((8, STEPS, 5)).astype("float32")
    y = rng.integers(0, NUM_TAGS, (8, STEPS))
    layer = CRF(NUM_TAGS, use_kernel=True)
    model = keras.Sequential([keras.Input((None, 5)), layer])
    model.compile("adam", CRFLoss(layer, **softened), jit_compile=jit_compile)
    before = model.evaluate(x, y, verbose=0)
    history = model.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert history[-1] < before
    given = {"label_smoothing": 0.0, "tag_weights": None} | softened
    expected = -np.mean(layer.log_likelihood(layer(x), y, None, *given.values()))
    assert model.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(-np.mean(layer.log_likelihood(layer(x), y)), rel=1e-3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_errors_name_the_argument(rng):
    scores, tags = chain(rng), np.zeros((3, STEPS), int)
    with pytest.raises(ValueError, match=r"weights must have shape \(num_tags,\) = \(3,\) or"):
        crf.weighted_log_likelihood(tags=tags, weights=np.ones(5), **scores)
    with pytest.raises(ValueError, match="engine='numba' does not take weights of steps"):
        crf.weighted_log_likelihood(tags=tags, weights=np.ones(3), engine="numba", **scores)
    for wrong in (-1.0, np.inf, np.nan):
        of_tags, of_steps = np.array([1, 1, wrong]), np.ones((3, STEPS))
        of_steps[1, 2] = wrong
        for weights, place in ((of_tags, r"\[2\]"), (of_steps, r"\[1, 2\]")):
            message = f"weights must be finite and not below 0, got {wrong} at {place}"
            with pytest.raises(ValueError, match=message):
                crf.weighted_log_likelihood(tags=tags, weights=weights, **scores)
        given = {**scores, "tags": tags, "lengths": np.array([4, 2, 4]), "weights": of_steps}
        assert np.isfinite(crf.weighted_log_likelihood(**given)).all()  # it is not of a valid step
        with pytest.raises(ValueError, match=r"tag_weights=.* must be finite and at least 0"):
            CRFLoss(tag_weights=of_tags)
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"label_smoothing=.* must be from 0 to below 1"):
            crf.smoothed_log_likelihood(tags=tags, label_smoothing=wrong, **scores)
        with pytest.raises(ValueError, match=r"label_smoothing=.* must be from 0 to below 1"):
            CRFLoss(label_smoothing=wrong)
    with pytest.raises(ValueError, match=r"tag_weights=.* must be finite and at least 0"):
        CRFLoss(tag_weights=[1, -1])
    memm = MEMM(NUM_TAGS)
    emissions = memm(np.zeros((1, STEPS, NUM_TAGS), "float32"))
    with pytest.raises(ValueError, match="label_smoothing and tag_weights are of the CRF layer"):
        CRFLoss(memm, label_smoothing=0.1)(np.zeros((1, STEPS), int), emissions)
