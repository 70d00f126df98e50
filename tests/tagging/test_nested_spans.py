"""Layers, loss, metric and decoding of nested spans against plain NumPy in float64."""

import time

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import tagging
from fastkeras._keras_private import set_keras_mask
from fastkeras.layers import EfficientGlobalPointer, GlobalPointer
from fastkeras.losses import MultilabelCategoricalCrossentropy, SpanCrossentropy
from fastkeras.metrics import NestedSpanScore
from fastkeras.training.gradients.differentiate import value_and_gradients

# NumPy 2 complains about how Keras on TensorFlow and on torch makes arrays of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LAYERS = (GlobalPointer, EfficientGlobalPointer)
BATCH, STEPS, CHANNELS, TYPES = 3, 6, 5, 2


def array(x):
    return np.asarray(ops.convert_to_numpy(x))


def loss_of(labels, scores):
    """The formula of the article, in longdouble, for one row of scores."""
    scores, labels = np.asarray(scores, np.longdouble), np.asarray(labels, np.longdouble)
    with np.errstate(over="ignore"):
        negative = ((1 - labels)[labels < 1] * np.exp(scores[labels < 1])).sum()
        positive = (labels[labels > 0] * np.exp(-scores[labels > 0])).sum()
    return np.log1p(negative) + np.log1p(positive)


def differences(function, x, step):
    """Central differences of the fourth order."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = step
        near, far = function(x + e) - function(x - e), function(x + 2 * e) - function(x - 2 * e)
        gradient[i] = (8 * near - far) / (12 * step)
    return gradient


@pytest.mark.parametrize("scale", (0.1, 3.0, 1000.0))
def test_multilabel_loss_is_the_formula(scale, rng):
    scores = scale * rng.standard_normal((7, 20))
    labels = rng.random((7, 20)) < np.linspace(0, 1, 7)[:, None]  # none of them, and all of them
    expected = [loss_of(*row) for row in zip(labels, scores, strict=True)]
    found = tagging.multilabel_categorical_crossentropy(labels, scores.astype("float32"))
    np.testing.assert_allclose(array(found), np.array(expected, float), rtol=3e-6, atol=1e-6)
    positions = np.where(labels, np.arange(20), -1)
    rng.shuffle(positions, axis=1)
    sparse = tagging.sparse_multilabel_categorical_crossentropy(positions, scores.astype("float32"))
    np.testing.assert_array_equal(array(sparse), array(found))


def test_multilabel_loss_keeps_small_values():
    scores = np.array([[-20.0, 20.0, -30.0]], "float32")
    found = tagging.multilabel_categorical_crossentropy(np.array([[0, 1, 0]]), scores)
    expected = loss_of(np.array([0, 1, 0]), scores[0])
    np.testing.assert_allclose(array(found)[0], float(expected), rtol=1e-6)  # 4e-9


def test_positions_are_exact_where_labels_outweigh_all_other_classes():
    # log(Σ all − Σ labels) would be the logarithm of what was rounded away
    scores, positions = np.array([[60.0, -3.0, 1.0]], "float32"), np.array([[0]])
    found = tagging.sparse_multilabel_categorical_crossentropy(positions, scores)
    np.testing.assert_allclose(array(found)[0], np.log1p(np.exp(-3) + np.exp(1)), rtol=1e-6)


def test_gradient_of_the_multilabel_loss(rng):
    scores = 2 * rng.standard_normal((3, 6)).astype("float32")
    scores[0, 0] = -np.inf
    labels = np.array([[0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0.2, 1, 0.7, 0, 0, 1]])

    def total(values):
        return ops.sum(tagging.multilabel_categorical_crossentropy(labels, values[0])), None

    _, (gradient,) = value_and_gradients(total, [ops.convert_to_tensor(scores)])
    wide = scores.astype(float)

    def exact(x):
        return float(sum(loss_of(*row) for row in zip(labels, x, strict=True)))

    finite = np.where(np.isfinite(wide), wide, -1e4)
    np.testing.assert_allclose(array(gradient), differences(exact, finite, 1e-3), atol=1e-6)


def test_a_forbidden_label_has_an_infinite_loss_and_no_gradient():
    scores = np.array([[-np.inf, 1.0, -1.0], [-np.inf, 1.0, -1.0]], "float32")
    labels = np.array([[1, 0, 0], [0, 1, 0]])

    def total(values):
        losses = tagging.multilabel_categorical_crossentropy(labels, values[0])
        return ops.sum(losses), losses

    (_, losses), (gradient,) = value_and_gradients(total, [ops.convert_to_tensor(scores)])
    assert np.isposinf(array(losses)[0]) and np.isfinite(array(losses)[1])
    np.testing.assert_array_equal(array(gradient)[0], 0)
    assert np.isfinite(array(gradient)).all() and array(gradient)[1, 1] < 0


def test_a_wrong_class_of_infinite_score_has_an_infinite_loss_and_no_gradient():
    scores = np.array([[np.inf, 1.0, -1.0], [0.5, np.inf, -1.0]], "float32")
    labels = np.array([[0, 1, 0], [0, 1, 0]])

    def total(values):
        losses = tagging.multilabel_categorical_crossentropy(labels, values[0])
        return ops.sum(losses), losses

    (_, losses), (gradient,) = value_and_gradients(total, [ops.convert_to_tensor(scores)])
    expected = [np.inf, np.log1p(np.exp(0.5) + np.exp(-1))]
    np.testing.assert_allclose(array(losses), expected, rtol=1e-6)
    np.testing.assert_array_equal(array(gradient)[0], 0)
    assert np.isfinite(array(gradient)).all()


def test_there_may_be_no_labels_no_steps_and_no_sequences(rng):
    scores = rng.standard_normal((2, 3)).astype("float32")
    none = tagging.sparse_multilabel_categorical_crossentropy(np.zeros((2, 0), int), scores)
    expected = tagging.multilabel_categorical_crossentropy(np.zeros((2, 3)), scores)
    np.testing.assert_array_equal(array(none), array(expected))
    loss = SpanCrossentropy(reduction="none")
    for batch, steps in ((2, STEPS), (0, STEPS), (2, 0)):
        spans = rng.standard_normal((batch, TYPES, steps, steps)).astype("float32")
        losses = array(loss(np.zeros((batch, 0, 3), int), spans))
        np.testing.assert_array_equal(losses, array(loss(np.zeros_like(spans), spans)))
        assert losses.shape == (batch,) and np.isfinite(losses).all()
        metric = NestedSpanScore("precision")
        metric.update_state(np.zeros((batch, 0, 3), int), spans)
        assert float(metric.result()) == 0


def test_positions_out_of_range():
    scores = np.zeros((2, 3), "float32")
    with pytest.raises(ValueError, match="below 3, the number of classes, got 7"):
        tagging.sparse_multilabel_categorical_crossentropy(np.array([[0], [7]]), scores)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([[0.5], [1]]), "labels must be whole numbers, got 0.5"),
        (np.array([[np.nan], [1]]), "labels must be whole numbers, got nan"),
        (np.array([[2**32 + 1], [1]]), "labels must be below 3"),
        (np.array([0, 1]), r"of the shape of y_pred but for the last axis, \(2, 'n'\), got \(2,\)"),
    ],
)
def test_positions_that_are_none(labels, message):
    with pytest.raises(ValueError, match=message):
        tagging.sparse_multilabel_categorical_crossentropy(labels, np.zeros((2, 3), "float32"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.ones((2, 1)), r"y_true must have the shape of y_pred, \(2, 3\), got \(2, 1\)"),
        (np.full((2, 3), -100), "y_true must be numbers from 0 to 1, got -100"),
        (np.full((2, 3), np.nan), "y_true must be numbers from 0 to 1, got nan"),
    ],
)
def test_dense_labels_that_are_none(labels, message):
    with pytest.raises(ValueError, match=message):
        tagging.multilabel_categorical_crossentropy(labels, np.zeros((2, 3), "float32"))


def test_multilabel_loss_in_fit_heeds_mask_weights_and_positions(rng):
    loss = MultilabelCategoricalCrossentropy(sparse=True)
    words = np.array([[1, 2, 0], [3, 0, 0]])
    model = keras.Sequential(
        [keras.layers.Embedding(4, 3, mask_zero=True), keras.layers.Dense(300)]
    )
    model.compile("adam", loss)
    labels = rng.integers(0, 300, (2, 3, 4))
    weights = np.array([1.0, 2.0], "float32")
    found = model.evaluate(words, labels, sample_weight=weights[:, None] * (words >= 0), verbose=0)
    scores = array(model(words))
    of_steps = array(tagging.sparse_multilabel_categorical_crossentropy(labels, scores))
    # Keras averages over the steps that are not masked
    expected = (of_steps[0, :2].sum() + 2 * of_steps[1, 0]) / 3
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert copy.get_config() == loss.get_config()


@pytest.mark.parametrize("heads", ((), (2,)))
def test_rotary_positions_are_a_rotation(heads, rng):
    x = rng.standard_normal((2, 5, *heads, 6))
    found = array(tagging.rotary_positions(x.astype("float32")))
    plane = x[..., ::2] + 1j * x[..., 1::2]
    angle = np.arange(5)[:, None] * 10000.0 ** (-np.arange(3) / 3)
    plane = plane * np.exp(1j * angle).reshape(5, *(1 for _ in heads), 3)
    np.testing.assert_allclose(found[..., ::2], plane.real, atol=2e-6)
    np.testing.assert_allclose(found[..., 1::2], plane.imag, atol=2e-6)
    shifted = array(tagging.rotary_positions(x.astype("float32"), np.arange(5) + 3))
    np.testing.assert_allclose(
        np.einsum("bm...d,bn...d->bmn...", shifted, shifted),
        np.einsum("bm...d,bn...d->bmn...", found, found),
        atol=1e-5,
    )


def test_rotary_positions_refuse_an_odd_size():
    with pytest.raises(ValueError, match="an even size"):
        tagging.rotary_positions(np.zeros((1, 2, 3)))


def turned(vector, t):
    half = len(vector) // 2
    plane = (vector[::2] + 1j * vector[1::2]) * np.exp(
        1j * t * 10000.0 ** (-np.arange(half) / half)
    )
    return np.stack([plane.real, plane.imag], axis=1).ravel()


def scores_span_by_span(layer, x, mask):
    """Return what the docstrings say, one span at a time."""
    kernel, bias = (array(w).astype(float) for w in (layer.dense.kernel, layer.dense.bias))
    scores = np.full((len(x), TYPES, STEPS, STEPS), -np.inf)
    size = layer.head_size
    for b, k, m, n in np.ndindex(scores.shape):
        if n < m or not (mask[b, m] and mask[b, n]):
            continue
        start, end = x[b, m] @ kernel + bias, x[b, n] @ kernel + bias
        if isinstance(layer, GlobalPointer):
            own = slice(2 * size * k, 2 * size * (k + 1))
            q, r, of_type = start[own][:size], end[own][size:], 0
        else:
            q, r = start[:size], end[size:]
            kernel_of_types, bias_of_types = (
                array(w).astype(float) for w in (layer.of_types.kernel, layer.of_types.bias)
            )
            a = (start @ kernel_of_types + bias_of_types)[k]
            of_type = (a + (end @ kernel_of_types + bias_of_types)[TYPES + k]) / 2
        if layer.use_rotary:
            q, r = turned(q, m), turned(r, n)
        scores[b, k, m, n] = q @ r / size**0.5 + of_type
    return scores


@pytest.mark.parametrize("use_rotary", (True, False))
@pytest.mark.parametrize("kind", LAYERS)
def test_scores_span_by_span(kind, use_rotary, rng):
    layer = kind(TYPES, head_size=4, use_rotary=use_rotary)
    layer.build((None, None, CHANNELS))
    for weight in layer.weights:  # biases are 0 at first
        weight.assign(rng.standard_normal(weight.shape))
    x = rng.standard_normal((BATCH, STEPS, CHANNELS)).astype("float32")
    mask = rng.random((BATCH, STEPS)) < 0.7
    mask[0] = False
    found = array(layer(x, mask=ops.convert_to_tensor(mask)))
    expected = scores_span_by_span(layer, x.astype(float), mask)
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected))
    possible = np.isfinite(expected)
    np.testing.assert_allclose(found[possible], expected[possible], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("policy", ("mixed_float16", "mixed_bfloat16"))
def test_mixed_precision(kind, policy, rng):
    layer = kind(TYPES, head_size=4, dtype=policy)
    scores = layer(rng.standard_normal((1, STEPS, CHANNELS)))
    assert keras.backend.standardize_dtype(scores.dtype) == policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(layer.dense.kernel.dtype) == "float32"
    loss = SpanCrossentropy()(np.array([[[0, 3, 1]]]), scores)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    assert np.isfinite(array(loss))


def spans_drawn(rng, number=BATCH):
    """Spans of each sequence, as sets of (start, end, type)."""
    drawn = []
    for _ in range(number):
        pairs = np.sort(rng.integers(0, STEPS, (rng.integers(0, 6), 2)), axis=1)
        drawn.append({(int(m), int(n), int(rng.integers(TYPES))) for m, n in pairs})
    return drawn


def dense(spans):
    labels = np.zeros((len(spans), TYPES, STEPS, STEPS), "float32")
    for b, of_sequence in enumerate(spans):
        for m, n, k in of_sequence:
            labels[b, k, m, n] = 1
    return labels


@pytest.mark.parametrize("kind", LAYERS)
def test_no_product_leaves_the_range_of_float16(kind):
    layer = kind(1, 64, use_rotary=False, kernel_initializer="zeros", dtype="float16")
    layer.build((None, None, 4))
    layer.dense.bias.assign(np.full(layer.dense.bias.shape, 40.0))  # 64 · 40² is 102,400
    scores = array(layer(np.ones((1, 2, 4), "float16")))
    np.testing.assert_array_equal(scores[0, 0], [[12800, 12800], [-np.inf, 12800]])


def test_both_kinds_of_labels_have_the_same_loss_and_score(rng):
    spans = spans_drawn(rng)
    scores = np.where(
        np.tril(np.ones((STEPS, STEPS)), -1),
        -np.inf,
        rng.standard_normal((BATCH, TYPES, STEPS, STEPS)),
    ).astype("float32")
    labels = dense(spans)
    expected = [
        np.mean([loss_of(labels[b, k].ravel(), scores[b, k].ravel()) for k in range(TYPES)])
        for b in range(BATCH)
    ]
    for given in (labels, tagging.span_labels([sorted(s) for s in spans])):
        losses = array(SpanCrossentropy(reduction="none")(given, scores))
        np.testing.assert_allclose(losses, np.array(expected, float), rtol=1e-5)
        weights = np.array([0.0, 1.0, 3.0], "float32")
        weighted = array(SpanCrossentropy(reduction="sum")(given, scores, weights))
        np.testing.assert_allclose(weighted, (weights * losses).sum(), rtol=1e-5)
        found = [
            {(m, n, k) for k, m, n in zip(*np.nonzero(row > 0), strict=True)} for row in scores
        ]
        for kind in (None, 1):
            pairs = [
                [{span for span in side if kind in (None, span[2])} for side in sides]
                for sides in zip(spans, found, strict=True)
            ]
            right = sum(len(a & b) for a, b in pairs)
            of = {
                "recall": sum(len(a) for a, _ in pairs),
                "precision": sum(len(b) for _, b in pairs),
            }
            of["f1"] = (of["recall"] + of["precision"]) / 2
            for measure, count in of.items():
                metric = NestedSpanScore(measure, kind)
                metric.update_state(given[:2], scores[:2])  # two batches
                metric.update_state(given[2:], scores[2:])
                assert float(metric.result()) == pytest.approx(right / max(count, 1))
                assert NestedSpanScore.from_config(metric.get_config()).kind == kind


def test_weights_of_the_score(rng):
    labels = tagging.span_labels([[(0, 1, 0)], [(0, 1, 0)]])
    scores = np.full((2, 1, 2, 2), -1.0, "float32")
    scores[0, 0, 0, 1] = 1
    metric = NestedSpanScore("recall")
    metric.update_state(labels, scores, sample_weight=np.array([3.0, 1.0]))
    assert float(metric.result()) == 0.75


def test_a_label_between_0_and_1_counts_above_one_half():
    labels = np.zeros((1, 1, 3, 3))
    labels[0, 0, 0, 1], labels[0, 0, 1, 2] = 0.9, 0.1
    metric = NestedSpanScore("recall")
    metric.update_state(labels, np.where(labels == 0.9, 1.0, -1.0))
    assert float(metric.result()) == 1


@pytest.mark.parametrize("sparse", (True, False))
def test_what_has_no_weight_or_is_masked_is_not_looked_at(sparse):
    scores = np.array([[[1.0, -2.0], [np.nan, 3.0], [-np.inf, np.inf]]] * 2, "float32")
    labels = np.array([[[0, 1], [-100, -100], [-100, -100]]] * 2)
    if sparse:
        labels = np.array([[[1, -1], [9, 9], [9, 9]]] * 2)  # 9 is none of two classes
    mask = np.array([[True, False, False], [True, True, False]])
    loss = MultilabelCategoricalCrossentropy(sparse)

    def total(values, weights, mask=None):
        y_pred = ops.convert_to_tensor(values[0])
        if mask is not None:
            set_keras_mask(y_pred, ops.convert_to_tensor(mask))
        return loss(labels, y_pred, weights), None

    expected = loss_of([0, 1], [1.0, -2.0])
    weights = {"steps": mask * [[1.0, 0, 0]], "one axis more": (mask * [[1.0, 0, 0]])[..., None]}
    cases = {name: ({"weights": given}, 1 / 3) for name, given in weights.items()}
    cases["mask"] = {"weights": None, "mask": mask & np.array([True, False, False])}, 1.0
    cases["both"] = {"weights": np.array([[2.0, 0, 1.0]] * 2), "mask": mask}, 2 * 2 / 3
    for name, (given, share) in cases.items():
        (value, _), (gradient,) = value_and_gradients(
            lambda values, given=given: total(values, **given), [ops.convert_to_tensor(scores)]
        )
        np.testing.assert_allclose(array(value), float(expected) * share, 1e-6, err_msg=name)
        assert (array(gradient)[:, 1:] == 0).all() and np.isfinite(array(gradient)).all()
    examples = np.array([[1.0, -2.0], [-np.inf, 0.0]], "float32")
    for weights in (np.array([1.0, 0.0]), np.array([[1.0], [0.0]])):
        found = loss(np.array([[1, -1], [0, 1]] if sparse else [[0, 1], [1, 0]]), examples, weights)
        np.testing.assert_allclose(array(found), float(expected) / 2, 1e-6)


def test_a_score_that_is_no_number_is_not_felt_at_weight_zero(rng):
    scores = rng.standard_normal((2, TYPES, STEPS, STEPS)).astype("float32")
    scores[1] = np.nan

    def total(values):
        spans, weights = np.array([[[0, 1, 0]]] * 2), np.array([1.0, 0.0])
        return SpanCrossentropy()(spans, values[0], weights), None

    (value, _), (gradient,) = value_and_gradients(total, [ops.convert_to_tensor(scores)])
    assert np.isfinite(array(value)) and (array(gradient)[1] == 0).all()


def test_weight_zero_hides_an_impossible_span():
    scores = np.full((2, 1, 2, 2), -np.inf, "float32")
    labels = np.array([[[0, 1, 0]], [[-1, -1, -1]]])
    assert np.isposinf(array(SpanCrossentropy()(labels, scores)))
    assert array(SpanCrossentropy()(labels, scores, np.array([0.0, 1.0]))) == 0


@pytest.mark.parametrize("span", ([0, STEPS, 0], [0, 1, TYPES], [3, 2, 0]))
def test_spans_out_of_range(span):
    scores = np.zeros((1, TYPES, STEPS, STEPS), "float32")
    with pytest.raises(ValueError, match=r"spans must be \[first step, last step, type\]"):
        SpanCrossentropy()(np.array([[[0, 1, 0], span]]), scores)


def test_wrong_shapes_and_arguments():
    scores = np.zeros((1, TYPES, STEPS, STEPS), "float32")
    with pytest.raises(ValueError, match=r"y_true must be spans, .* got \(1, 6\)"):
        SpanCrossentropy()(np.zeros((1, STEPS), int), scores)
    with pytest.raises(ValueError, match=r"y_true must have the shape of y_pred, .* got \(1, "):
        # types last, as others have them: as many numbers, which a reshape would mix up
        SpanCrossentropy()(np.zeros((1, STEPS, STEPS, TYPES)), scores)
    with pytest.raises(ValueError, match=r"spans must be whole numbers, got 1\.5"):
        SpanCrossentropy()(np.array([[[0, 1.5, 0]]]), scores)
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(batch,\), .*\(1, 2\)"):
        SpanCrossentropy()(np.array([[[0, 1, 0]]]), scores, np.ones((1, 2)))
    for wrong in (scores[0], scores[0, 0, 0]):
        with pytest.raises(ValueError, match="y_pred must be scores of spans"):
            SpanCrossentropy()(np.zeros((1, 1, 3), int), wrong)
    for kind in LAYERS:
        for wrong in ({"num_types": 0}, {"num_types": 2.0}, {"num_types": 1, "head_size": 3}):
            with pytest.raises(ValueError, match=f"{list(wrong)[-1]}={list(wrong.values())[-1]}"):
                kind(**wrong)
    with pytest.raises(ValueError, match="measure='accuracy' must be one of f1, precision, recall"):
        NestedSpanScore("accuracy")
    with pytest.raises(ValueError, match="kind='LOC' must be None or an integer"):
        NestedSpanScore(kind="LOC")


def test_labels_become_spans_again(rng):
    spans = spans_drawn(rng)
    scores = np.where(dense(spans) > 0, rng.random((BATCH, TYPES, STEPS, STEPS)) + 0.1, -1)
    found = tagging.decode_spans(scores)
    assert [{span[:3] for span in row} for row in found] == spans
    assert found == [sorted(row, key=lambda s: (s.start, -s.end)) for row in found]
    assert tagging.decode_spans(scores, threshold=2.0) == [[]] * BATCH
    named = tagging.decode_spans(scores, names=["LOC", "ORG"])
    assert [[s._replace(kind=["LOC", "ORG"].index(s.kind)) for s in row] for row in named] == found


def test_overlaps():
    scores = np.full((1, 1, 6, 6), -1.0)
    for (m, n), score in {(0, 3): 4.0, (1, 2): 3.0, (2, 5): 2.0, (4, 5): 1.0}.items():
        scores[0, 0, m, n] = score

    def kept(overlap):
        return [span[:2] for span in tagging.decode_spans(scores, overlap=overlap)[0]]

    assert kept("any") == [(0, 3), (1, 2), (2, 5), (4, 5)]
    assert kept("nested") == [(0, 3), (1, 2), (4, 5)]
    assert kept("none") == [(0, 3), (4, 5)]
    with pytest.raises(ValueError, match="overlap='some' must be one of any, nested, none"):
        kept("some")
    with pytest.raises(ValueError, match="names must be 1 names"):
        tagging.decode_spans(scores, names=["a", "b"])
    with pytest.raises(ValueError, match="scores must have shape"):
        tagging.decode_spans(scores[0])


def may_share(a, b, overlap):
    """Whether two spans may both be kept, by the words of the docstring."""
    if overlap == "any" or a.end < b.start or b.end < a.start:
        return True
    is_inside = (b.start <= a.start and a.end <= b.end) or (a.start <= b.start and b.end <= a.end)
    return overlap == "nested" and is_inside


@pytest.mark.parametrize("overlap", ("any", "nested", "none"))
def test_spans_are_kept_as_if_each_was_compared_with_all_before(overlap, rng):
    scores = rng.standard_normal((20, 2, 9, 9)) - rng.random((20, 1, 1, 1))
    scores[:, :, *np.tril_indices(9, -1)] = -np.inf
    for found, every in zip(
        tagging.decode_spans(scores, overlap=overlap), tagging.decode_spans(scores), strict=True
    ):
        kept = []
        for span in sorted(every, key=lambda span: -span.score):
            if all(may_share(span, other, overlap) for other in kept):
                kept.append(span)
        assert sorted(found) == sorted(kept)


@pytest.mark.parametrize("overlap", ("any", "nested", "none"))
def test_time_to_keep_spans_does_not_grow_with_those_kept(overlap):
    scores = np.ones((1, 3, 120, 120))  # each with all others before: half a billion comparisons
    began = time.perf_counter()
    found = tagging.decode_spans(scores, overlap=overlap)
    assert time.perf_counter() - began < 20
    assert len(found[0]) > 100


def test_lists_of_spans_that_are_none():
    for wrong in ((2, 1, 0), (-1, 1, 0), (0, 1, -2), (0.5, 1, 0), (0, 1), (0, 1, "LOC"), None):
        with pytest.raises(ValueError, match="a span must be"):
            tagging.span_labels([[wrong]])
    with pytest.raises(ValueError, match=r"a type in \['LOC'\], got \(0, 1, 'ORG'\)"):
        tagging.span_labels([[(0, 1, "ORG")]], ["LOC"])
    with pytest.raises(ValueError, match=r"names must differ, got \['LOC', 'LOC'\]"):
        tagging.span_labels([[(0, 1, "LOC")]], ["LOC", "LOC"])
    assert tagging.span_labels([]).shape == (0, 1, 3)


@pytest.mark.parametrize("kind", LAYERS)
def test_fit_finds_nested_spans_and_a_saved_model_still_does(kind, tmp_path, rng):
    keras.utils.set_random_seed(0)
    # a 1 opens and a 2 closes the outer span, a 3 is a span of its own inside
    words = rng.integers(4, 9, (48, 8))
    words[:, 1], words[np.arange(48), rng.integers(3, 7, 48)] = 1, 2
    words[:, 2] = 3
    words[:, 7] = 0
    spans = [[(1, int(np.argmax(row == 2)), 0), (2, 2, 1)] for row in words]
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 16, mask_zero=True)(inputs)
    model = keras.Model(inputs, kind(2, head_size=8)(x))
    model.compile(keras.optimizers.Adam(0.03), SpanCrossentropy(), metrics=[NestedSpanScore()])
    labels = tagging.span_labels(spans)
    history = model.fit(words, labels, epochs=25, batch_size=16, verbose=0).history
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    assert history["span_f1"][-1] > 0.95
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(array(again(words)), array(model(words)), rtol=1e-6)
    results = again.evaluate(words, labels, verbose=0, return_dict=True)
    assert results == pytest.approx(model.evaluate(words, labels, verbose=0, return_dict=True))
    found = tagging.decode_spans(again.predict(words, verbose=0))
    right = sum({s[:3] for s in row} == set(true) for row, true in zip(found, spans, strict=True))
    assert right >= 45


@pytest.mark.parametrize("kind", LAYERS)
def test_configuration(kind):
    layer = kind(3, 6, use_rotary=False, use_bias=False, kernel_initializer="ones", name="spans")
    copy = kind.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert layer.compute_output_shape((None, 7, 4)) == (None, 3, 7, 7)
    assert copy(np.ones((1, 2, 4))).shape == (1, 3, 2, 2)
    assert len(copy.weights) == (1 if kind is GlobalPointer else 2)


def test_a_graph_cannot_raise_and_gives_nan_instead(rng):
    if keras.backend.backend() == "torch":
        pytest.skip("torch runs eagerly, and raises")
    labels = np.array([[[0, 9, 0]], [[0, 1, 0]], [[0, 1.5, 0]]], "float32")
    scores = rng.standard_normal((3, TYPES, STEPS, STEPS)).astype("float32")
    loss = SpanCrossentropy(reduction="none")
    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(loss)
    else:
        import tensorflow as tf

        compiled = tf.function(loss, jit_compile=True)
    losses = array(compiled(labels, scores))
    np.testing.assert_array_equal(np.isnan(losses), [True, False, True])
