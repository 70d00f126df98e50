"""Gated attention, relative positions and pooling against plain NumPy, on every backend."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from accuracy import assert_as_accurate_as_reference
from fastkeras.layers import (
    GatedAttentionUnit,
    RelativeMultiHeadAttention,
    RelativePositionBias,
    SequencePooling,
)
from fastkeras.tagging import relative_position_buckets

# NumPy 2 complains about how Keras on TensorFlow and on torch makes arrays of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RNG = np.random.default_rng(8)
X = RNG.standard_normal((3, 7, 6)).astype("float32")
MASK = np.arange(7) < np.array([[7], [4], [0]])


def array(x):
    return np.array(ops.convert_to_numpy(ops.stop_gradient(x)))


def with_random_weights(layer, *shapes):
    layer.build(*shapes)
    layer.set_weights([RNG.standard_normal(w.shape) * 0.7 for w in layer.get_weights()])
    return layer


def bucket_of(distance, buckets, largest, bidirectional):
    """The formula of the paper, one distance at a time."""
    first = 0
    if bidirectional:
        buckets //= 2
        first = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(largest / exact)
    return first + min(exact + int(share * (buckets - exact) + 1e-9), buckets - 1)


@pytest.mark.parametrize(
    "setting", [(32, 128, True), (32, 128, False), (8, 20, True), (2, 5, False)]
)
def test_buckets_of_distances(setting):
    distances = np.arange(-300, 301)
    expected = [bucket_of(d, *setting) for d in distances.tolist()]
    np.testing.assert_array_equal(array(relative_position_buckets(distances, *setting)), expected)


def bias_of(layer, queries, keys):
    table = array(layer.embeddings)
    setting = layer.num_buckets, layer.max_distance, layer.bidirectional
    order = [[bucket_of(s - t, *setting) for s in range(keys)] for t in range(queries)]
    return table[np.array(order)].transpose(2, 0, 1)


def test_a_bias_for_each_head_and_distance():
    layer = with_random_weights(RelativePositionBias(2, 8, 5), X.shape)
    expected = bias_of(layer, 7, 4)
    np.testing.assert_array_equal(array(layer(X, X[:, :4])), expected)
    assert layer.compute_output_shape(X.shape, X[:, :4].shape) == expected.shape


def turned(x):
    """Rotary positions by complex numbers, x of shape (batch, steps, size)."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * 10000.0 ** (-np.arange(half) / half)
    z = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    return np.stack([z.real, z.imag], -1).reshape(x.shape).astype(x.dtype)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gated_attention(layer, x, mask, dtype):
    """One sequence and one step at a time."""
    x, size = np.where(mask[..., None], x, 0).astype(dtype), layer.size
    w, wo = (array(dense.kernel).astype(dtype) for dense in (layer.inner, layer.outer))
    gamma, beta = array(layer.gamma).astype(dtype), array(layer.beta).astype(dtype)
    inner = x @ w
    inner = inner / (1 + np.exp(-inner))
    u, v, z = inner[..., :size], inner[..., size : 2 * size], inner[..., 2 * size :]
    q, k = (z * gamma[i] + beta[i] for i in range(2))
    if layer.use_rotary:
        q, k = turned(q), turned(k)
    bias = np.zeros((7, 7)) if layer.positions is None else bias_of(layer.positions, 7, 7)[0]
    erf = np.vectorize(math.erf, otypes=[dtype])
    result = np.zeros_like(x)
    for i in range(len(x)):
        for t in range(7):
            seen = [s for s in range(7) if mask[i, s] and (s <= t or not layer.causal)]
            if not seen:
                continue
            products, b, n = k[i, seen] @ q[i, t], bias[t, seen].astype(dtype), len(seen)
            root = dtype(layer.key_dim) ** dtype(0.5)
            if layer.normalization == "squared_relu":
                weights = np.maximum(products / root + b, 0) ** 2 / dtype(n)
            elif layer.normalization == "laplace":
                sigma = math.sqrt(1 / (4 * math.pi))
                centred = products / dtype(n) + b - dtype(math.sqrt(0.5))
                weights = (1 + erf(centred / dtype(sigma * math.sqrt(2)))) / 2
            else:
                scale = math.log(n) / math.log(512) if "plus" in layer.normalization else 1
                weights = softmax(products / root * dtype(scale) + b)
            result[i, t] = (u[i, t] * (weights.astype(dtype) @ v[i, seen])) @ wo
    return result


@pytest.mark.parametrize("normalization", ["squared_relu", "softmax", "softmax_plus", "laplace"])
@pytest.mark.parametrize("options", [{}, {"causal": True, "num_buckets": 8}, {"use_rotary": False}])
def test_gated_attention(normalization, options):
    layer = GatedAttentionUnit(5, 4, normalization, dtype="float32", **options)
    layer = with_random_weights(layer, X.shape)
    for mask in (None, MASK):
        result = array(layer(X, mask=mask))
        valid = np.ones_like(MASK) if mask is None else mask
        exact, rounded = (gated_attention(layer, X, valid, d) for d in (np.float64, np.float32))
        assert_as_accurate_as_reference(result, exact, rounded, np.abs(exact).max(), steps=4)
    tail = np.where(MASK[..., None], X, np.float32(1e3))  # what is masked has no influence
    np.testing.assert_allclose(array(layer(tail, mask=MASK))[MASK], result[MASK], 1e-5, 1e-5)


def test_attention_of_keras_with_relative_positions():
    ours = RelativeMultiHeadAttention(2, 4, 8, 20, dtype="float32")
    theirs = keras.layers.MultiHeadAttention(2, 4, dtype="float32")
    for layer in (ours, theirs):
        layer.build(X.shape, X.shape)
    weights = [RNG.standard_normal(w.shape) for w in theirs.get_weights()]
    theirs.set_weights(weights)
    ours.set_weights([*weights, np.zeros((8, 2))])
    asked = {"use_causal_mask": True}, {"attention_mask": MASK[:2, None] & np.ones((7, 1), bool)}
    for options in ({}, *asked):
        expected = array(theirs(X[:2], X[:2], **options))
        np.testing.assert_allclose(array(ours(X[:2], X[:2], **options)), expected, 1e-4, 1e-5)
    table = RNG.standard_normal((8, 2))
    ours.set_weights([*weights, table])
    result, attention = ours(X, X[:, :5], return_attention_scores=True)
    q, wq, k, wk, v, wv, o, wo = (w.astype(float) for w in weights)
    x = X.astype(float)
    q, k, v = (
        np.einsum("btc,cnh->btnh", y, w) + b for y, w, b in ((x, q, wq), (x, k, wk), (x, v, wv))
    )
    scores = np.einsum("btnh,bsnh->bnts", q, k[:, :5]) / 2 + bias_of(ours.relative_positions, 7, 5)
    np.testing.assert_allclose(array(attention), softmax(scores), 1e-4, 1e-6)
    mixed = np.einsum("bnts,bsnh->btnh", softmax(scores), v[:, :5])
    np.testing.assert_allclose(array(result), np.einsum("btnh,nhc->btc", mixed, o) + wo, 1e-4, 1e-5)


def test_masks_of_attention_of_all_shapes():
    num_heads = 7  # as many as steps: which axis is which?
    layer = RelativeMultiHeadAttention(num_heads, 2, 8, 20, dtype="float32")
    layer = with_random_weights(layer, X.shape, X.shape)
    before = np.tril(np.ones((7, 7), bool))
    for masks in ({}, {"query_mask": MASK, "value_mask": MASK}):
        expected = array(layer(X, X, use_causal_mask=True, **masks))
        for shape in ((7, 7), (1, 7, 7), (3, 7, 7), (1, 1, 7, 7), (3, num_heads, 7, 7)):
            mask = np.broadcast_to(before, shape)
            found = array(layer(X, X, attention_mask=mask, **masks))
            np.testing.assert_array_equal(found, expected, err_msg=str(shape))
    of_heads = np.stack([before] + [before.T] * (num_heads - 1))[None]
    _, weights = layer(X, X, attention_mask=of_heads, return_attention_scores=True)
    assert (array(weights)[~np.broadcast_to(of_heads, weights.shape)] == 0).all()
    with pytest.raises(ValueError, match=r"attention_mask must have shape .*, got \(7,\)"):
        layer(X, X, attention_mask=before[0])


@pytest.mark.parametrize("positions", ["sinusoids", "vectors"])
def test_attention_with_a_vector_for_each_distance(positions):
    layer = RelativeMultiHeadAttention(
        2, 4, max_distance=3, value_dim=5, positions=positions, dtype="float32"
    )
    layer = with_random_weights(layer, X.shape, X.shape)
    weights = [w.astype(float) for w in layer.get_weights()]
    tables, (q, wq, k, wk, v, wv, o, wo) = weights[:-8], weights[-8:]
    if positions == "sinusoids":  # NEZHA's, row by row
        tables = [np.zeros((7, size)) for size in (4, 5)]
        for table in tables:
            size = table.shape[1]
            for row in range(7):
                for i in range(size // 2):
                    angle = row / 10000 ** (2 * i / size)
                    table[row, 2 * i : 2 * i + 2] = math.sin(angle), math.cos(angle)
    x, mask = X.astype(float), MASK[:2]
    q, k, v = (
        np.einsum("btc,cnh->btnh", y, w) + b
        for y, w, b in ((x, q, wq), (x[:, :5], k, wk), (x[:, :5], v, wv))
    )
    expected = np.zeros((2, 7, 6))
    for b, t in np.argwhere(mask):
        for head in range(2):
            seen = np.flatnonzero(mask[b, :5])
            rows = np.clip(seen - t, -3, 3) + 3
            keys, values = k[b, seen, head] + tables[0][rows], v[b, seen, head] + tables[1][rows]
            expected[b, t] += softmax(keys @ q[b, t, head] / 2) @ values @ o[head]
    masks = {"query_mask": mask, "value_mask": mask[:, :5]}
    result = array(layer(X[:2], X[:2, :5], **masks))
    np.testing.assert_allclose(result[mask], (expected + wo)[mask], 1e-4, 1e-5)


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_pooling_of_the_steps_that_are_not_masked(pooling):
    layer = with_random_weights(SequencePooling(pooling, 4, dtype="float32"), X.shape)
    broken = np.where(MASK[..., None], X, np.float32(np.nan))
    result, expected = array(layer(broken, mask=MASK)), np.zeros((3, 6))
    for row, x, mask in zip(expected, X.astype(float), MASK, strict=True):
        x = x[mask]
        if not len(x):
            continue
        if pooling == "attention":
            w, b, score = (array(v).astype(float) for v in layer.weights)
            row[:] = softmax((np.tanh(x @ w + b) @ score)[:, 0]) @ x
        else:
            row[:] = getattr(x, pooling)(0)
    np.testing.assert_allclose(result, expected, 1e-5, 1e-6)
    np.testing.assert_allclose(array(layer(X))[0], expected[0], 1e-5, 1e-6)


def test_integers_are_pooled_as_numbers_and_no_steps_as_zeros():
    ones, nothing = np.array([[[1], [2]]]), np.zeros((2, 0, 3), "float32")
    for pooling, expected in (("mean", 1.5), ("max", 2.0)):
        assert array(SequencePooling(pooling)(ones)) == expected
    for pooling in ("mean", "max", "attention"):
        np.testing.assert_array_equal(array(SequencePooling(pooling)(nothing)), np.zeros((2, 3)))
        assert SequencePooling(pooling)(np.zeros((0, 2, 3), "float32")).shape == (0, 3)
    np.testing.assert_array_equal(array(SequencePooling("attention")(ones[:, :1])), [[1.0]])
    assert RelativePositionBias(2)(nothing).shape == (2, 0, 0)


def test_they_train_in_half_precision_and_are_loaded_as_saved(tmp_path):
    keras.utils.set_random_seed(1)
    words = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 6, mask_zero=True, dtype="mixed_float16")(words)
    options = {"dropout": 0.1, "num_buckets": 8, "causal": True, "activation": "gelu"}
    x = x + GatedAttentionUnit(5, 4, "laplace", dtype="mixed_float16", **options)(x)
    x = x + RelativeMultiHeadAttention(2, 4, 8, dropout=0.1, dtype="mixed_float16")(x, x)
    x = x + RelativeMultiHeadAttention(2, 4, positions="vectors", dtype="mixed_float16")(x, x)
    x = SequencePooling("attention", dtype="mixed_float16")(x)
    model = keras.Model(words, keras.layers.Dense(1, dtype="float32")(x))
    model.compile("adam", "mse")
    tokens = RNG.integers(1, 9, (8, 5)) * (np.arange(5) < RNG.integers(1, 6, (8, 1)))
    history = model.fit(tokens, np.ones((8, 1)), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict_on_batch(tokens), model.predict_on_batch(tokens))
    for ours, loaded in zip(model.layers, again.layers, strict=True):
        assert ours.get_config() == loaded.get_config()


def test_half_precision_has_no_overflow_of_its_own():
    layer = with_random_weights(GatedAttentionUnit(5, 4, dtype="float16"), X.shape)
    long = np.repeat(X[:1], 3000 // 7, axis=1)
    assert np.isfinite(array(SequencePooling("mean", dtype="float16")(30 * np.abs(long)))).all()
    assert np.isfinite(array(layer(X))).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GatedAttentionUnit(0),
            "intermediate_dim=0 must be None or an integer of at least 1",
        ),
        (lambda: GatedAttentionUnit(key_dim=3), "key_dim=3 must be even"),
        (lambda: GatedAttentionUnit(normalization="relu"), "normalization='relu' must be one of"),
        (lambda: GatedAttentionUnit(dropout=1), "dropout=1 must be from 0 to below 1"),
        (lambda: GatedAttentionUnit(num_buckets=3), "num_buckets=3 must be an integer of at least"),
        (lambda: RelativePositionBias(1, 5), "num_buckets=5 must be even"),
        (lambda: RelativeMultiHeadAttention(1, 2, positions="nezha"), "positions='nezha' must be"),
        (lambda: RelativePositionBias(1, 32, 8), "max_distance=8 must be an integer of at least 9"),
        (lambda: RelativeMultiHeadAttention(1, 2)(*np.ones((2, 1, 2, 3, 4))), "query must have"),
        (lambda: SequencePooling("min"), "pooling='min' must be one of mean, max, attention"),
        (
            lambda: SequencePooling("attention", 0),
            "units=0 must be None or an integer of at least 1",
        ),
    ],
)
def test_arguments_are_named_with_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()
