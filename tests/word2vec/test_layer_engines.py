"""The engines of the Keras layers on TensorFlow: as accurate as the text, and who is asked when."""

from importlib import import_module

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import fastkeras  # noqa: E402
from accuracy import WIDER, assert_as_accurate_as_reference  # noqa: E402
from engine_parameters import engines_of  # noqa: E402
from fastkeras.layers import CBOW, SkipGram  # noqa: E402
from word2vec.plain_loss import loss_and_gradients  # noqa: E402
from word2vec.test_layers import batch_of, fix_drawn, model_of, randomize  # noqa: E402

# Keras makes arrays in a way of which NumPy 2 complains
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WORDS = 40
LOSSES = ("sampled_softmax", "negative_sampling")
SHAPES = [  # batch, negative, size: every number of vectors in a row, and of rows in a tile
    (1, 1, 1),
    (3, 7, 3),
    (5, 8, 16),
    (9, 5, 100),
    (64, 16, 33),
    (4, 40, 130),
    (2, 300, 300),
]


@pytest.fixture(params=engines_of("word2vec.layers"))
def engine(request):
    return import_module(f"fastkeras.word2vec.layers._engines.{request.param}")


def variables(*arrays):
    return [keras.Variable(array, dtype=array.dtype.name) for array in arrays]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("batch", "negative", "size"), SHAPES)
def test_loss_is_as_accurate_as_the_text(engine, batch, negative, size, loss, dtype, rng):
    arrays = [
        rng.standard_normal(shape).astype(dtype)
        for shape in ((batch, size), (WORDS, size), (WORDS,), (WORDS,), (batch,))
    ]
    hidden, outputs, bias, correction, upstream = arrays
    targets = rng.integers(0, WORDS, batch).astype("int32")
    drawn = rng.integers(0, WORDS, (batch, negative)).astype("int32")
    drawn[:, 0] = np.where(rng.random(batch) < 0.5, targets, drawn[:, 0])  # hits
    h, (u, b, c) = tf.constant(hidden), variables(outputs, bias, correction)
    with tf.GradientTape() as tape:
        tape.watch(h)
        found = engine.sampled_loss(loss, h, u, b, tf.constant(targets), tf.constant(drawn), c)
        total = tf.reduce_sum(found[0] * upstream)
    found = [*found, *map(tf.convert_to_tensor, tape.gradient(total, [h, u.value, b.value]))]
    text = [
        loss_and_gradients(
            loss, *(a.astype(d) for a in (hidden, outputs, bias)), targets, drawn,
            correction.astype(d), upstream.astype(d),
        )
        for d in (WIDER[dtype], dtype)
    ]  # fmt: skip
    np.testing.assert_array_equal(found[1], text[0][1])
    scale = np.abs(hidden @ outputs.T + bias).max(initial=0) + np.abs(correction).max()
    for name, ours, exact, rounded in zip(
        ("loss", "hits", "hidden", "outputs", "bias"), found, *text, strict=True
    ):
        most = scale * negative if name == "loss" else 0.0
        assert_as_accurate_as_reference(np.array(ours), exact, rounded, scale, most)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("batch", "contexts", "size"), SHAPES)
def test_sums_are_as_accurate_as_the_text(engine, batch, contexts, size, dtype, rng):
    matrix = rng.standard_normal((WORDS, size)).astype(dtype)
    weights = rng.standard_normal((batch, contexts)).astype(dtype)
    upstream = rng.standard_normal((batch, size)).astype(dtype)
    ids = rng.integers(0, WORDS, (batch, contexts)).astype("int32")
    is_hole = rng.random(ids.shape) < 0.2
    weights[is_hole] = 0
    ids[is_hole] = -1
    (v,) = variables(matrix)
    with tf.GradientTape() as tape:
        found = engine.pooled(v, tf.constant(ids), tf.constant(weights))
    gradient = tape.gradient(found, v.value, upstream)
    text = []
    for wide in (WIDER[dtype], dtype):
        rows, w, g = (array.astype(wide) for array in (matrix, weights, upstream))
        d_matrix = np.zeros_like(rows)
        np.add.at(d_matrix, ids, w[..., None] * g[:, None])
        text.append((np.sum(w[..., None] * rows[ids], axis=1), d_matrix))
    for ours, exact, rounded in zip((found, gradient), *text, strict=True):
        ours = np.array(tf.convert_to_tensor(ours))
        assert_as_accurate_as_reference(ours, exact, rounded, np.sqrt(max(contexts, batch)))


@pytest.fixture
def native():
    state = fastkeras.engines("word2vec.layers")["tensorflow_native"]
    if state != "ready":
        pytest.skip(state)


@pytest.mark.usefixtures("native")
def test_native_takes_a_batch_without_examples():
    layer = CBOW(WORDS, 8, 4, engine="tensorflow_native")
    with tf.GradientTape() as tape:
        hidden = layer([np.zeros(0, "int32"), np.zeros((0, 5), "int32")])
        total = tf.reduce_sum(hidden)
    assert hidden.shape == (0, 8)
    assert tape.gradient(total, layer.embeddings.value).values.shape == (0, 8)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("kind", [SkipGram, CBOW])
def test_native_gradients_have_each_row_once(kind, rng):
    layer = kind(WORDS, 8, 4, use_bias=True, engine="tensorflow_native")
    layer.build()
    inputs = batch_of(kind, rng, 64)
    drawn = fix_drawn(layer, rng, 64)
    with tf.GradientTape() as tape:
        layer(inputs)
        gradients = tape.gradient(layer.losses[0], [v.value for v in layer.trainable_variables])
    targets, hidden = inputs[::-1] if kind is SkipGram else inputs
    outputs = np.unique(np.append(drawn, targets))
    for gradient, rows in zip(
        gradients, (np.unique(hidden[hidden >= 0]), outputs, outputs), strict=True
    ):
        np.testing.assert_array_equal(gradient.indices, rows)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("kind", [SkipGram, CBOW])
def test_engines_take_the_same_step(kind, rng):
    inputs, weights = batch_of(kind, rng), []
    for name in ("tensorflow_native", "keras"):
        layer = kind(WORDS, 8, 4, seed=1, engine=name)
        model = model_of(layer)
        randomize(layer, np.random.default_rng(0))
        model.compile(keras.optimizers.SGD(0.1))
        model.train_on_batch(inputs)  # the same draws: those of the seed
        weights.append([np.array(v) for v in layer.trainable_variables])
    for native, composed in zip(*weights, strict=True):
        np.testing.assert_allclose(native, composed, 1e-5, 1e-6)


@pytest.mark.usefixtures("native")
def test_xla_and_a_name_choose_the_engine_of_keras(monkeypatch, rng):
    asked = []
    for name in fastkeras.engines("word2vec.layers"):
        module = import_module(f"fastkeras.word2vec.layers._engines.{name}")
        pooled = module.pooled
        monkeypatch.setattr(
            module, "pooled", lambda *a, name=name, do=pooled: asked.append(name) or do(*a)
        )
    inputs = batch_of(SkipGram, rng)
    for options, jit_compile in (({}, False), ({}, True), ({"engine": "keras"}, False)):
        model = model_of(SkipGram(9, 3, 4, **options))
        model.compile("sgd", jit_compile=jit_compile)
        asked.clear()
        model.train_on_batch(inputs)
        expected = "keras" if options or jit_compile else "tensorflow_native"
        assert set(asked) == {expected}
    with pytest.raises(ValueError, match="engine='numba' is none of"):
        SkipGram(9, 3, 4, engine="numba")(inputs)


def test_engine_is_saved():
    config = SkipGram(9, engine="keras").get_config()
    assert SkipGram.from_config(config).engine == "keras"


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(("kind", "center", "context"), [
    (SkipGram, 9, 0), (SkipGram, 0, 9), (SkipGram, -1, 0), (CBOW, 9, 0), (CBOW, 0, 9),
])  # fmt: skip
def test_words_that_are_not_there_are_named(kind, center, context):
    layer = kind(9, 3, 4, engine="tensorflow_native")
    contexts = np.int32([context] if kind is SkipGram else [[context] * 2])
    wrong = rf"words must be in 0\.\.8.*, got {9 if 9 in (center, context) else -1}"
    with pytest.raises(tf.errors.InvalidArgumentError, match=wrong):
        layer([np.int32([center]), contexts])
