"""`CRFObjective`: values and gradients against all tag sequences, and training in Keras."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras.layers import CRF, MEMM, SemiMarkovCRF
from fastkeras.losses import CRFObjective
from fastkeras.metrics import CRFSpanScore
from fastkeras.training.gradients.differentiate import value_and_gradients

# NumPy 2 complains about how Keras on TensorFlow and on torch makes arrays of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MODES = ("marginal", "softmax_margin", "max_margin", "perceptron", "risk")
BATCH, STEPS, NUM_TAGS = 3, 3, 3
NAMES = ["O", "B-X", "I-X"]


def array(x):
    return np.asarray(ops.convert_to_numpy(x))


def spans_in(tags):
    """The spans of BIO tags as conlleval reads them."""
    spans, start = set(), None
    for t, tag in enumerate([*tags, 0]):
        if start is not None and tag != 2:
            spans.add((start, t))
            start = None
        if tag == 1 or (tag == 2 and start is None):
            start = t
    return spans


def span_cost(tags, path):
    true, found = spans_in(tags), spans_in(path)
    return 1 - 2 * len(true & found) / (len(true) + len(found)) if true | found else 0.0


def exact(mode, x, tags, mask, transitions, start, end):
    """The sum of the losses over the batch, in float64, from all paths."""
    total = 0.0
    for b in range(BATCH):
        steps, gold = x[b, mask[b]], tuple(tags[b, mask[b]])
        paths = list(itertools.product(range(NUM_TAGS), repeat=len(steps)))
        scores = np.array(
            [
                sum(steps[t, tag] for t, tag in enumerate(path))
                + sum(transitions[pair] for pair in itertools.pairwise(path))
                + (start[path[0]] + end[path[-1]] if path else 0)
                for path in paths
            ]
        )
        right = scores[paths.index(gold)]
        costs = np.array([sum(a != b for a, b in zip(path, gold, strict=True)) for path in paths])
        if mode == "marginal":
            p = np.exp(scores) / np.exp(scores).sum()
            for t, tag in enumerate(gold):
                total -= np.log(sum(q for q, path in zip(p, paths, strict=True) if path[t] == tag))
        elif mode == "softmax_margin":
            total += np.log(np.exp(scores + 2 * costs).sum()) - right
        elif mode == "max_margin":
            total += (scores + 2 * costs).max() - right
        elif mode == "perceptron":
            total += scores.max() - right
        else:
            best = np.argsort(-scores)[:4]
            p = np.exp(scores[best]) / np.exp(scores[best]).sum()
            total += p @ [span_cost(gold, paths[i]) for i in best]
    return total


@pytest.mark.parametrize("mode", MODES)
def test_value_and_gradients_are_those_of_all_paths(mode, rng):
    layer = CRF(NUM_TAGS)
    layer.build((None, None, NUM_TAGS))
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape))
    scores = [array(s) for s in (layer.transitions, layer.start_transitions, layer.end_transitions)]
    x = rng.standard_normal((BATCH, STEPS, NUM_TAGS)).astype("float32")
    mask = np.ones((BATCH, STEPS), bool)
    mask[0, 1] = mask[1, 2] = False
    tags = rng.integers(0, NUM_TAGS, (BATCH, STEPS))
    loss = CRFObjective(layer, mode, 2.0, 4, NAMES if mode == "risk" else None, reduction="sum")
    given = ops.convert_to_tensor(mask)

    def total(values):
        return loss(np.where(mask, tags, -100), layer(values[0], mask=given)), None

    (value, _), (gradient,) = value_and_gradients(total, [ops.convert_to_tensor(x)])
    wide, step = x.astype(float), 1e-4
    np.testing.assert_allclose(array(value), exact(mode, wide, tags, mask, *scores), rtol=1e-5)
    expected = np.zeros_like(wide)
    for i in zip(*np.nonzero(mask[..., None] & np.ones(NUM_TAGS, bool)), strict=True):
        near, far = (
            exact(mode, wide + e, tags, mask, *scores) - exact(mode, wide - e, tags, mask, *scores)
            for e in (_one(wide, i, step), _one(wide, i, 2 * step))
        )
        expected[i] = (8 * near - far) / (12 * step)
    np.testing.assert_allclose(array(gradient), expected, atol=1e-5)


def _one(x, place, value):
    result = np.zeros_like(x)
    result[place] = value
    return result


@pytest.mark.parametrize("mode", MODES)
def test_fit_learns_and_a_saved_model_has_the_same_loss(mode, tmp_path, rng):
    keras.utils.set_random_seed(0)
    words = rng.integers(1, 7, (32, 6))
    words[::2, 4:] = 0
    tags = np.where(np.roll(words, 1, axis=1) > 4, 2, words % 2)
    inputs = keras.Input((None,), dtype="int32")
    crf = CRF(NUM_TAGS, use_kernel=True)
    model = keras.Model(inputs, crf(keras.layers.Embedding(7, 8, mask_zero=True)(inputs)))
    if mode == "risk":  # begins where the likelihood has led
        model.compile(keras.optimizers.Adam(0.05), crf.loss)
        model.fit(words, tags, epochs=3, verbose=0)
    names = NAMES if mode == "risk" else None
    loss = CRFObjective(crf, mode, names=names)
    model.compile(keras.optimizers.Adam(0.05), loss, metrics=[crf.accuracy])
    losses = model.fit(words, tags, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < (0.97 if mode == "risk" else 0.8) * losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.loss.get_config() == loss.get_config()
    expected = model.evaluate(words, tags, verbose=0, return_dict=True)
    assert again.evaluate(words, tags, verbose=0, return_dict=True) == pytest.approx(expected)


@pytest.mark.parametrize("mode", MODES)
def test_weights_of_sequences(mode, rng):
    layer = CRF(NUM_TAGS)
    emissions = layer(rng.standard_normal((2, STEPS, NUM_TAGS)).astype("float32"))
    tags = rng.integers(0, NUM_TAGS, (2, STEPS))
    each = array(CRFObjective(layer, mode, reduction="none")(tags, emissions))
    weights = np.array([0.5, 2.0], "float32")
    weighted = CRFObjective(layer, mode, reduction="sum")(tags, emissions, weights)
    np.testing.assert_allclose(array(weighted), weights @ each, rtol=1e-6)


def test_impossible_labels_have_an_infinite_loss_and_no_gradient():
    layer = CRF(2)
    x = np.array([[[0.0, -np.inf], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]], "float32")
    tags = np.array([[1, 0], [1, 0]])
    for mode in MODES[:-1]:
        loss = CRFObjective(layer, mode, reduction="none")

        def total(values, loss=loss):
            losses = loss(tags, layer(values[0]))
            return ops.sum(losses), losses

        (_, losses), (gradient,) = value_and_gradients(total, [ops.convert_to_tensor(x)])
        assert np.isposinf(array(losses)[0]) and np.isfinite(array(losses)[1])
        np.testing.assert_array_equal(array(gradient)[0], 0)
        assert np.isfinite(array(gradient)).all()


@pytest.mark.parametrize("mode", MODES)
def test_tags_out_of_range_are_an_error(mode, rng):
    layer = CRF(NUM_TAGS)
    emissions = layer(rng.standard_normal((2, STEPS, NUM_TAGS)).astype("float32"))
    for wrong in (NUM_TAGS, -1):
        tags = np.array([[0, 1, 2], [0, wrong, 2]])
        with pytest.raises(Exception, match=r"tags must be in 0\.\.2"):
            CRFObjective(layer, mode)(tags, emissions)


def test_wrong_arguments(rng):
    with pytest.raises(ValueError, match="mode='join' must be one of marginal, softmax_margin"):
        CRFObjective(mode="join")
    with pytest.raises(ValueError, match="num_paths=1 must be"):
        CRFObjective(num_paths=1)
    with pytest.raises(ValueError, match=r"costs=-1.0 must be finite and at least 0"):
        CRFObjective(costs=-1.0)
    tags = np.zeros((1, 2), int)
    emissions = rng.standard_normal((1, 2, 2)).astype("float32")
    with pytest.raises(ValueError, match="weights of sequences"):
        CRFObjective()(tags, CRF(2)(emissions), np.ones((1, 2), "float32"))
    for layer in (MEMM(2), SemiMarkovCRF(1, 2)):
        with pytest.raises(ValueError, match="cannot be trained by mode='max_margin'"):
            CRFObjective()(tags, layer(emissions))
    with pytest.raises(ValueError, match="CRF cannot be trained by mode='typo'; its modes are: ma"):
        CRF(2).objective("typo", emissions, tags)
    with pytest.raises(ValueError, match=r"MEMM cannot be trained by mode='risk'; .* none"):
        MEMM(2).objective("risk", emissions, tags)


def test_names_are_those_of_the_tags(rng):
    message = "names must be the names of the 4 tags of the layer .*, got 3: O, B-X, I-X"
    layer, unbuilt = CRF(NUM_TAGS + 1), CRF()
    emissions = unbuilt(rng.standard_normal((1, 2, NUM_TAGS + 1)).astype("float32"))
    tags = np.zeros((1, 2), int)
    with pytest.raises(ValueError, match=message):
        CRFObjective(layer, "risk", names=NAMES)
    with pytest.raises(ValueError, match=message):
        CRFObjective(None, "risk", names=NAMES)(tags, emissions)
    with pytest.raises(ValueError, match=message):
        CRFSpanScore(layer, NAMES)
    with pytest.raises(ValueError, match=message):
        CRFSpanScore(None, NAMES).update_state(tags, emissions)
