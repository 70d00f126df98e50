"""The engines of the Keras layers: accuracy, equal bits, and which engine is chosen when."""

from importlib import import_module

import keras
import numpy as np
import pytest
from keras import ops

import fastkeras
from accuracy import WIDER, assert_as_accurate_as_reference
from engine_parameters import engines_of
from fastkeras.layers import CBOW, SkipGram
from word2vec.differentiation import BACKEND, results_and_gradients
from word2vec.plain_loss import loss_and_gradients
from word2vec.test_layers import as_array, batch_of, fix_drawn, model_of, randomize

# NumPy 2 complains about how Keras makes arrays
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
    words = map(ops.convert_to_tensor, (targets, drawn))
    results, gradients = results_and_gradients(
        lambda h, u, b, c: engine.sampled_loss(loss, h, u, b, *words, c),
        [hidden], [outputs, bias, correction], upstream, dtype,
    )  # fmt: skip
    found = [*results, *gradients[:3]]
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
        assert_as_accurate_as_reference(ours, exact, rounded, scale, most)


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
    (found,), (gradient,) = results_and_gradients(
        lambda v: (engine.pooled(v, ops.convert_to_tensor(ids), ops.convert_to_tensor(weights)),),
        [], [matrix], upstream, dtype,
    )  # fmt: skip
    text = []
    for wide in (WIDER[dtype], dtype):
        rows, w, g = (array.astype(wide) for array in (matrix, weights, upstream))
        d_matrix = np.zeros_like(rows)
        np.add.at(d_matrix, ids, w[..., None] * g[:, None])
        text.append((np.sum(w[..., None] * rows[ids], axis=1), d_matrix))
    for ours, exact, rounded in zip((found, gradient), *text, strict=True):
        assert_as_accurate_as_reference(ours, exact, rounded, np.sqrt(max(contexts, batch)))


NATIVE = f"{BACKEND}_native"  # the C++ engine of this backend


@pytest.fixture(params=[NATIVE])
def native(request):
    state = fastkeras.engines("word2vec.layers")[request.param]
    if state != "ready":
        pytest.skip(state)
    return import_module(f"fastkeras.word2vec.layers._engines.{request.param}")


@pytest.fixture
def set_num_threads(native, monkeypatch):
    """A function that sets the number of threads of the engine."""
    if BACKEND == "tensorflow":
        yield lambda n: monkeypatch.setattr(native, "_num_threads", lambda: n)
    elif BACKEND == "torch":
        import torch

        before = torch.get_num_threads()
        yield torch.set_num_threads
        torch.set_num_threads(before)
    else:
        from ctypes import c_int

        from fastkeras._ops.jax import function_of

        yield function_of("fastkeras_set_num_threads", None, c_int)
        function_of("fastkeras_set_num_threads", None, c_int)(0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_number_of_threads_gives_the_same_bits(native, set_num_threads, dtype, rng):
    """With several tasks for each thread, words that do not occur, and one in every example."""
    batch, contexts, words, size = 3000, 5, 9000, 19
    ids = rng.integers(0, words // 2, (batch, contexts)).astype("int32")
    ids[:, 0] = 7
    matrices = [rng.standard_normal((words, size)).astype(dtype) for _ in range(2)]
    bias, upstream = (rng.standard_normal(n).astype(dtype) for n in (words, batch))
    weights = rng.standard_normal(ids.shape).astype(dtype)

    def results(threads):
        set_num_threads(threads)

        def both(rows, outputs, bias):
            words, factors = map(ops.convert_to_tensor, (ids, weights))
            hidden = native.pooled(rows, words, factors)
            arguments = hidden, outputs, bias, words[:, 0], words[:, 1:]
            losses, hits = native.sampled_loss("sampled_softmax", *arguments)
            return losses, hits, hidden

        found = results_and_gradients(both, [], [*matrices, bias], upstream, dtype)
        return [*found[0], *found[1]]

    alone = results(1)
    assert all(np.any(array[words // 2 :] == 0) for array in alone[3:])
    for threads in (2, 3):
        for one, other in zip(alone, results(threads), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("words", [0, 1, 4096, 4097, 8192])
def test_words_that_do_not_occur_get_zeros(native, words, rng):
    """Whatever was in the memory before, and wherever the threads' tasks end."""
    ids = np.full((3, 2), -1, "int32")
    if words:
        ids[0] = [words // 2, words - 1]
    for _ in range(3):
        matrix = rng.standard_normal((words, 3)).astype("float32")
        upstream = np.ones((3, 3), "float32")
        (_,), (gradient,) = results_and_gradients(
            lambda v: (
                native.pooled(v, ops.convert_to_tensor(ids), ops.ones((3, 2), "float32")),
            ),
            [], [matrix], upstream, "float32",
        )  # fmt: skip
        expected = np.zeros_like(matrix)
        np.add.at(expected, ids[ids >= 0], 1)
        np.testing.assert_array_equal(gradient, expected)


def test_native_takes_a_batch_without_examples(native):
    ids = np.zeros((0, 5), "int32")
    (found,), (gradient,) = results_and_gradients(
        lambda v: (native.pooled(v, ops.convert_to_tensor(ids), ops.zeros((0, 5), "float32")),),
        [], [np.ones((WORDS, 8), "float32")], np.zeros((0, 8), "float32"), "float32",
    )  # fmt: skip
    assert found.shape == (0, 8)
    assert gradient.shape == (WORDS, 8)
    assert not gradient.any()
    assert CBOW(WORDS, 8, 4, engine=NATIVE)([ids[:, 0], ids]).shape == (0, 8)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="gradients by rows are TensorFlow's")
@pytest.mark.parametrize("kind", [SkipGram, CBOW])
def test_native_gradients_have_each_row_once(native, kind, rng):
    import tensorflow as tf

    layer = kind(WORDS, 8, 4, use_bias=True, engine=NATIVE)
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


OPTIONS = [
    {},
    {"use_bias": True, "sampling_correction": True, "ns_exponent": 0},
    {"loss": "negative_sampling", "tied": True},
    {"dtype": "mixed_bfloat16"},
    {"dtype": "bfloat16"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", [SkipGram, CBOW])
def test_engines_take_the_same_step(native, kind, options, rng):
    inputs, weights = batch_of(kind, rng), []
    for name in (NATIVE, "keras"):
        layer = kind(WORDS, 8, 4, seed=1, engine=name, **options)
        model = model_of(layer)
        randomize(layer, np.random.default_rng(0))
        model.compile(keras.optimizers.SGD(0.1))
        model.train_on_batch(inputs)  # the seed makes the draws the same
        weights.append([as_array(v).astype("float32") for v in layer.trainable_variables])
    tolerance = 1e-2 if options.get("dtype") == "bfloat16" else 1e-5
    for ours, composed in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, composed, tolerance, tolerance)


@pytest.fixture
def asked(monkeypatch):
    """The names of the engines whose `pooled` is called."""
    names = []
    for name, state in fastkeras.engines("word2vec.layers").items():
        if state == "ready":
            module = import_module(f"fastkeras.word2vec.layers._engines.{name}")
            monkeypatch.setattr(
                module,
                "pooled",
                lambda *a, name=name, do=module.pooled: names.append(name) or do(*a),
            )
    return names


def test_a_name_chooses_the_engine(native, asked, rng):
    inputs = batch_of(SkipGram, rng)
    cases = [({}, False, NATIVE), ({"engine": "keras"}, False, "keras")]
    if BACKEND != "torch":  # whose compiler needs a C++ compiler, and time
        cases.append(({}, True, "keras" if BACKEND == "tensorflow" else NATIVE))
    for options, jit_compile, expected in cases:
        model = model_of(SkipGram(9, 3, 4, **options))
        model.compile("sgd", jit_compile=jit_compile)
        asked.clear()
        model.train_on_batch(inputs)
        assert set(asked) == {expected}
    with pytest.raises(ValueError, match="engine='numba' is none of"):
        SkipGram(9, 3, 4, engine="numba")(inputs)


def test_engine_is_saved():
    config = SkipGram(9, engine="keras").get_config()
    assert SkipGram.from_config(config).engine == "keras"


def errors_of_a_call():
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.errors.InvalidArgumentError
    if BACKEND == "torch":
        return ValueError
    import jax

    return jax.errors.JaxRuntimeError, ValueError  # when the program runs, or before


@pytest.mark.parametrize(("kind", "center", "context"), [
    (SkipGram, 9, 0), (SkipGram, 0, 9), (SkipGram, -1, 0), (SkipGram, 0, -1),
    (CBOW, 9, 0), (CBOW, 0, 9), (CBOW, -1, 0),
])  # fmt: skip
def test_words_that_are_not_there_are_named(native, kind, center, context):
    layer = kind(9, 3, 4, engine=NATIVE)
    contexts = np.int32([context] if kind is SkipGram else [[context] * 2])
    wrong = rf"words must be in 0\.\.8.*, got {9 if 9 in (center, context) else -1}"
    with pytest.raises(errors_of_a_call(), match=wrong):
        as_array(layer([np.int32([center]), contexts]))
        as_array(layer.losses[0])
