"""Weights transformed before use: formulas, their gradients by differences, layers, saving."""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras.layers import GradientReversal, LossLayer, Reparameterize
from fastkeras.ops import stop_gradient_through
from fastkeras.training import (
    L2Normalize,
    LowRank,
    Masked,
    SpectralNorm,
    WeightNorm,
    WeightStandardization,
)

# NumPy 2 complains about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RNG = np.random.default_rng(1)
X = RNG.standard_normal((8, 4)).astype("float32")
TARGET = RNG.standard_normal((8, 3)).astype("float32")
MASK = RNG.random((4, 3)) < 0.5


@keras.saving.register_keras_serializable("tests")
def half(weight):
    return weight / 2


def spectral(w):
    return w / np.linalg.norm(w, 2)


def unit(w):
    return w / np.sqrt((w * w).sum(0))


def standard(w):
    return (w - w.mean(0)) / np.sqrt(w.var(0) + 1e-5)


FORMULAS = {  # in float64, as in the literature
    "function": (half, lambda w: w / 2),
    "spectral": (SpectralNorm(60), spectral),
    "unit": (L2Normalize(), unit),
    "standard": (WeightStandardization(), standard),
    "masked": (Masked(MASK), lambda w: w * MASK),
}


def arrays(variables):
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def network(layer, shape=(4,)):
    x = keras.Input(shape)
    model = keras.Model(x, layer(x))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    return model


def step(model, x=X, y=TARGET):
    before = arrays(model.trainable_variables)
    model.train_on_batch(x, y)
    return [b - a for b, a in zip(before, arrays(model.trainable_variables), strict=True)]


def differences(function, w, epsilon=1e-3):
    """Central differences of the fourth order."""
    gradient = np.zeros(w.shape)
    for i in np.ndindex(w.shape):
        e = np.zeros(w.shape)
        e[i] = epsilon
        gradient[i] = (
            8 * (function(w + e) - function(w - e)) - function(w + 2 * e) + function(w - 2 * e)
        ) / (12 * epsilon)
    return gradient


@pytest.mark.parametrize("name", FORMULAS)
def test_output_and_gradient_are_those_of_the_formula(name):
    transform, formula = FORMULAS[name]
    dense = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(1))
    model = network(Reparameterize(dense, transform))
    w = arrays([dense.kernel])[0].astype("float64")
    np.testing.assert_allclose(model.predict(X, verbose=0), X @ formula(w), 1e-4, 1e-5)
    expected = differences(lambda w: ((X @ formula(w) - TARGET) ** 2).mean(), w)
    np.testing.assert_allclose(step(model)[0], expected, 2e-3, 2e-5)


def test_few_rounds_have_the_gradient_of_what_they_compute():
    transform, start = SpectralNorm(2), np.random.default_rng(0).standard_normal(3)

    def formula(w):
        v = start
        for _ in range(2):
            v = w.T @ (w @ v)
            v = v / np.linalg.norm(v)
        return w / np.linalg.norm(w @ v)

    dense = keras.layers.Dense(3)
    model = network(Reparameterize(dense, transform))
    w = arrays([dense.kernel])[0].astype("float64")
    expected = differences(lambda w: ((X @ formula(w) - TARGET) ** 2).mean(), w)
    np.testing.assert_allclose(step(model)[0], expected, 2e-3, 2e-5)


def test_weight_normalisation_starts_where_the_layer_was_and_trains_gain_and_direction():
    dense = keras.layers.Dense(3)
    dense.build((None, 4))
    before = arrays([dense(X)])[0]
    model = network(Reparameterize(dense, WeightNorm()))
    np.testing.assert_allclose(model.predict(X, verbose=0), before, 1e-5, 1e-6)
    w = arrays([dense.kernel])[0].astype("float64")
    gain = np.sqrt((w * w).sum(0))
    loss = lambda w, gain: ((X @ (gain * unit(w)) - TARGET) ** 2).mean()  # noqa: E731
    kernel, _, gains = step(model)
    np.testing.assert_allclose(kernel, differences(lambda w: loss(w, gain), w), 2e-3, 2e-5)
    np.testing.assert_allclose(gains, differences(lambda g: loss(w, g), gain), 2e-3, 2e-5)


def test_low_rank_starts_as_the_best_approximation_and_trains_the_factors_alone():
    dense = keras.layers.Dense(3)
    model = network(Reparameterize(dense, LowRank(2)))
    u, s, v = np.linalg.svd(arrays([dense.kernel])[0])
    best = (u[:, :2] * s[:2]) @ v[:2]
    np.testing.assert_allclose(model.predict(X, verbose=0), X @ best, 1e-4, 1e-5)
    kernel = arrays([dense.kernel])[0]
    assert sorted(v.name for v in model.trainable_variables) == ["bias", "left", "right"]
    assert all(np.abs(moved).max() > 1e-4 for moved in step(model))
    np.testing.assert_array_equal(arrays([dense.kernel])[0], kernel)
    with pytest.raises(ValueError, match="rank=9 must be at most 3 here"):
        network(Reparameterize(keras.layers.Dense(3), LowRank(9)))


def test_spectral_norm_of_awkward_weights():
    centred = np.array([[1.0, -1.0], [-2.0, 2.0]], "float32")  # a start of ones finds nothing
    normalized = arrays([SpectralNorm(5)(centred)])[0]
    assert np.linalg.norm(normalized, 2) == pytest.approx(1, 1e-5)
    gamma = arrays([SpectralNorm()(np.array([0.5, -2.0, 1.0], "float32"))])[0]
    np.testing.assert_allclose(gamma, [0.25, -1, 0.5])
    assert (arrays([SpectralNorm()(np.zeros((3, 2), "float32"))])[0] == 0).all()
    kernel = RNG.standard_normal((3, 3, 5, 2)).astype("float32")  # as of a transposed convolution
    matrix = np.moveaxis(kernel, -2, -1).reshape(-1, 5)
    normalized = arrays([SpectralNorm(50, axis=-2)(kernel)])[0]
    np.testing.assert_allclose(normalized, kernel / np.linalg.norm(matrix, 2), 1e-4)


def test_a_persistent_vector_converges_over_the_steps_and_rests_in_inference():
    dense = keras.layers.Dense(3)
    layer = Reparameterize(dense, SpectralNorm(1, persistent=True))
    model = network(layer)
    model.optimizer.learning_rate = 0.0
    vector = layer.transforms[0].vector
    start = arrays([vector])[0]
    model.predict(X, verbose=0)
    np.testing.assert_array_equal(arrays([vector])[0], start)
    for _ in range(60):
        model.train_on_batch(X, TARGET)
    w = arrays([dense.kernel])[0]
    np.testing.assert_allclose(model.predict(X, verbose=0), X @ spectral(w), 1e-4, 1e-5)


def test_a_layer_called_twice_transforms_once():
    if keras.config.backend() == "jax":
        pytest.skip("the compiler merges equal computations there")
    calls = []

    def count(weight):
        calls.append(1)
        return weight / 2

    layer = Reparameterize(keras.layers.Dense(4, use_bias=False), count)
    x = keras.Input((4,))
    model = keras.Model(x, layer(layer(x)))
    w = arrays(model.weights)[0]
    calls.clear()
    y = arrays([model(X)])[0]
    np.testing.assert_allclose(y, X @ w @ w / 4, 1e-4, 1e-6)
    assert len(calls) == 1


def test_a_frozen_call_of_the_same_layer_takes_no_gradient_from_the_other():
    layer = Reparameterize(keras.layers.Dense(4, use_bias=False), half)

    class Twice(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.inner = layer

        def build(self, shape):
            self.inner.build(shape)

        def call(self, x):
            return self.inner(x) + stop_gradient_through(self.inner)(x)

    model = network(Twice())
    w = arrays(model.weights)[0]
    target = np.zeros((8, 4), "float32")
    expected = X.T @ (2 * (X @ w) / 32) / 2  # both calls give x w / 2, but only one learns
    np.testing.assert_allclose(step(model, X, target)[0], expected, 1e-4, 1e-6)


SHAPES = {
    "lstm": (keras.layers.LSTM, (3,), ("kernel", "recurrent_kernel"), (5, 4), "float32"),
    "bidirectional": (
        lambda units: keras.layers.Bidirectional(keras.layers.GRU(units)),
        (2,),
        ("forward_gru/gru_cell/kernel", "recurrent_kernel"),
        (5, 4),
        "float32",
    ),
    "embedding": (
        lambda size: keras.layers.Embedding(9, size, mask_zero=True),
        (3,),
        "embeddings",
        (5,),
        "int32",
    ),
    "batch": (keras.layers.BatchNormalization, (), "gamma", (4,), "float32"),
    "conv": (lambda n: keras.layers.Conv1D(n, 2), (3,), "kernel", (5, 4), "float32"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_any_layer_trains_as_if_its_weights_were_halved_and_is_saved(name, tmp_path):
    make, arguments, weights, shape, dtype = SHAPES[name]
    if name == "bidirectional":
        keras.backend.clear_session()
    data = RNG.integers(0, 9, (8, *shape)) if dtype == "int32" else RNG.standard_normal((8, *shape))
    data = data.astype(dtype)

    def model_of(layer):
        x = keras.Input(shape, dtype=dtype)
        y = layer(x)
        y = keras.layers.GlobalAveragePooling1D()(y) if len(y.shape) == 3 else y
        model = keras.Model(x, keras.layers.Dense(1, kernel_initializer="ones")(y))
        model.compile(keras.optimizers.SGD(1.0), "mse")
        return model

    inner = make(*arguments)
    layer = Reparameterize(inner, half, weights)
    model = model_of(layer)
    plain = model_of(make(*arguments))
    halved = [id(v) for v in layer._raw()]
    plain.set_weights([
        w / 2 if id(v) in halved else w
        for v, w in zip(model.weights, arrays(model.weights), strict=True)
    ])  # fmt: skip
    np.testing.assert_allclose(
        model.predict(data, verbose=0), plain.predict(data, verbose=0), 1e-4, 1e-5
    )
    variables = model.trainable_variables
    target = np.ones((8, 1), "float32")
    for v, ours, theirs in zip(
        variables, step(model, data, target), step(plain, data, target), strict=True
    ):
        factor = 0.5 if id(v) in halved else 1
        np.testing.assert_allclose(ours, factor * theirs, 1e-3, 1e-5)
    statistics = zip(model.non_trainable_variables, plain.non_trainable_variables, strict=True)
    for ours, theirs in statistics:
        if "seed" in ours.name:
            continue
        np.testing.assert_allclose(*arrays([ours, theirs]), 1e-4, 1e-6)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        again.predict(data, verbose=0), model.predict(data, verbose=0), 1e-5, 1e-6
    )


@keras.saving.register_keras_serializable("tests")
class Bilinear(keras.layers.Layer):
    """a W b, of two inputs, with only the methods that a layer must have."""

    def build(self, a_shape, b_shape):
        shape = (a_shape[-1], b_shape[-1])
        self.kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="kernel")

    def call(self, a, b):
        return ops.matmul(ops.matmul(a, self.kernel), ops.swapaxes(b, -1, -2))


def attend(layer, a, b):
    return layer(a, b, key=2 * b, use_causal_mask=True)


SEVERAL = {  # a layer, its weights, how it is called
    "attention to itself": (
        lambda: keras.layers.MultiHeadAttention(2, 3),
        ("query/kernel", "value/kernel"),
        lambda layer, a, b: layer(a, a),
    ),
    "attention": (lambda: keras.layers.MultiHeadAttention(2, 3), "query/kernel", attend),
    "grouped": (lambda: keras.layers.GroupQueryAttention(3, 2, 1), "query/kernel", attend),
    "a list": (
        lambda: keras.layers.AdditiveAttention(),
        "scale",
        lambda layer, a, b: layer([a, b]),
    ),
    "initial state": (
        lambda: keras.layers.GRU(4),
        "kernel",
        lambda layer, a, b: layer(a, initial_state=b[:, 0]),
    ),
    "states": (
        lambda: keras.layers.LSTM(4, return_state=True),
        "kernel",
        lambda layer, a, b: layer(a)[2],
    ),
    "own": (Bilinear, "kernel", lambda layer, a, b: layer(a, b)),
}


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("name", SEVERAL)
def test_layers_of_several_inputs_train_as_if_their_weights_were_halved(name, built, tmp_path):
    make, weights, call = SEVERAL[name]
    data = [RNG.standard_normal((6, steps, 4)).astype("float32") for steps in (3, 5)]

    def model_of(layer):
        inputs = [keras.Input((3, 4)), keras.Input((5, 4))]
        flat = keras.layers.Flatten()(call(layer, *inputs))
        model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones")(flat))
        model.compile(keras.optimizers.SGD(1.0), "mse")
        return model

    inner, plain_layer = make(), make()
    if built:
        call(inner, *(keras.KerasTensor((None, *array.shape[1:])) for array in data))
    layer = Reparameterize(inner, half, weights)
    model, plain = model_of(layer), model_of(plain_layer)
    halved = [id(v) for v in layer._raw()]
    pairs = zip(model.weights, arrays(model.weights), strict=True)
    plain.set_weights([w / 2 if id(v) in halved else w for v, w in pairs])
    expected = plain.predict(data, verbose=0)
    np.testing.assert_allclose(model.predict(data, verbose=0), expected, 1e-4, 1e-5)
    eager = call(layer, *(ops.convert_to_tensor(array) for array in data))
    assert eager.shape == call(plain_layer, *map(ops.convert_to_tensor, data)).shape
    variables, target = model.trainable_variables, np.ones((6, 1), "float32")
    pairs = step(model, data, target), step(plain, data, target)
    for v, ours, theirs in zip(variables, *pairs, strict=True):
        np.testing.assert_allclose(ours, (0.5 if id(v) in halved else 1) * theirs, 1e-3, 1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    expected = model.predict(data, verbose=0)
    np.testing.assert_allclose(again.predict(data, verbose=0), expected, 1e-5, 1e-6)


def test_masks_reach_attention_as_they_reach_the_layer_itself():
    tokens = np.array([[1, 2, 0, 0], [3, 1, 2, 0]])
    embed = keras.layers.Embedding(4, 4, mask_zero=True)
    inner = keras.layers.MultiHeadAttention(2, 3)
    layer = Reparameterize(inner, lambda weight: weight + 0, "query/kernel")
    ours = layer(query=(x := embed(tokens)), value=x)
    theirs, whole = inner(x := embed(tokens), x), inner(x := embed(tokens) + 0, x)
    np.testing.assert_allclose(*arrays([ours, theirs]), 1e-5, 1e-6)
    assert np.abs(np.subtract(*arrays([ours, whole]))).max() > 1e-4
    shape = layer.compute_output_shape((None, 4, 4), (None, 4, 4))
    assert shape == inner.compute_output_shape((None, 4, 4), (None, 4, 4))


@pytest.mark.parametrize(
    "transform",
    [SpectralNorm(persistent=True), WeightNorm(), LowRank(2), Masked(MASK), L2Normalize(0)],
    ids=lambda transform: type(transform).__name__,
)
def test_transforms_are_saved_with_their_state(transform, tmp_path):
    model = network(Reparameterize(keras.layers.Dense(3), transform))
    step(model)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    predictions = [m.predict(X, verbose=0) for m in (model, again)]
    np.testing.assert_array_equal(*predictions)
    assert len(again.trainable_variables) == len(model.trainable_variables)
    step(model), step(again)
    np.testing.assert_allclose(*(m.predict(X, verbose=0) for m in (model, again)), 1e-5, 1e-6)


def test_losses_of_the_inner_layer_are_kept():
    dense = keras.layers.Dense(3, activity_regularizer="l2", kernel_regularizer="l2")
    layer = Reparameterize(dense, half)
    model = network(layer)
    model.compile("sgd", "mse")
    y, kernel = arrays([model(X)])[0], arrays([dense.kernel])[0]
    expected = ((y - TARGET) ** 2).mean() + 0.01 * ((kernel**2).sum() + (y**2).sum() / 8)
    assert model.evaluate(X, TARGET, verbose=0) == pytest.approx(expected, 1e-4)


def test_half_precision_transforms_in_full_precision():
    layer = Reparameterize(keras.layers.Dense(3, dtype="mixed_bfloat16"), SpectralNorm(30))
    layer.dtype_policy = "mixed_bfloat16"
    assert keras.backend.standardize_dtype(layer(X).dtype) == "bfloat16"
    (value,) = arrays(layer.transformed_weights().values())
    assert np.linalg.norm(value, 2) == pytest.approx(1, 1e-4)


def test_unknown_weights_are_named():
    with pytest.raises(ValueError, match=r"'kernels' is no weight of 'd', which has .*d/kernel"):
        Reparameterize(keras.layers.Dense(3, name="d"), half, "kernels").build((None, 4))


def test_reversed_and_stopped_gradients():
    x = keras.Input((4,))
    first, second = (keras.layers.Dense(4, use_bias=False) for _ in range(2))
    model = keras.Model(x, LossLayer()(second(GradientReversal(0.5)(first(x)))))
    model.compile(keras.optimizers.SGD(1.0))
    w, v = arrays(model.trainable_variables)
    ones = np.full((8, 4), 1 / 32, "float32")
    model.train_on_batch(X)
    moved = [b - a for b, a in zip((w, v), arrays(model.trainable_variables), strict=True)]
    np.testing.assert_allclose(moved[0], -0.5 * X.T @ (ones @ v.T), 1e-4, 1e-6)
    np.testing.assert_allclose(moved[1], (X @ w).T @ ones, 1e-4, 1e-6)
    with pytest.raises(ValueError, match="not built yet"):
        stop_gradient_through(keras.layers.Dense(3, name="d"))


def test_a_stopped_call_repeats_the_noise_and_leaves_the_statistics():
    model = keras.Sequential([
        keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)
    ])  # fmt: skip
    state = arrays(model.variables)
    stopped = arrays([stop_gradient_through(model)(X, training=True)])[0]
    for a, b in zip(state, arrays(model.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(stopped, arrays([model(X, training=True)])[0])
