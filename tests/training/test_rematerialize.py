"""`Rematerialize`: the values, gradients and state of the layer, computed a second time."""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras.layers import Rematerialize, Reparameterize

# NumPy 2 complains about how Keras on TensorFlow and on torch makes arrays of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CALLS = []


@keras.saving.register_keras_serializable("test_rematerialize")
class Block(keras.layers.Layer):
    """Noise, moving statistics, a mask, and a loss of its own; no argument `training`."""

    def __init__(self, **options):
        super().__init__(**options)
        self.attention = keras.layers.MultiHeadAttention(1, 4)
        self.drop = keras.layers.Dropout(0.5, seed=3)
        self.normal = keras.layers.BatchNormalization()
        self.supports_masking = True

    def build(self, shape):
        self.attention.build(shape, shape)
        self.normal.build(shape)
        self.built = True

    def call(self, x, scale=1.0):
        CALLS.append(1)
        self.add_loss(0.1 * ops.mean(ops.square(x)))
        return self.normal(x + scale * self.drop(self.attention(x, x)))


def trained(wrap, eager=False):
    keras.utils.set_random_seed(0)
    words = keras.Input((4,), dtype="int32")
    x = keras.layers.Embedding(5, 4, mask_zero=True)(words)
    for _ in range(2):
        x = wrap(Block())(x, scale=0.5)
    model = keras.Model(words, keras.layers.Dense(1)(x))
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=eager)
    tokens = np.random.default_rng(0).integers(0, 5, (8, 4))
    losses = [model.train_on_batch(tokens, np.ones((8, 4, 1), "float32")) for _ in range(2)]
    return model, losses, [np.asarray(ops.convert_to_numpy(w)) for w in model.get_weights()]


def test_values_gradients_and_state_are_those_of_the_layer(tmp_path):
    model, losses, weights = trained(Rematerialize)
    _, expected_losses, expected = trained(lambda block: block)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)
    for weight, wanted in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=1e-6, atol=1e-7)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    tokens = np.ones((2, 4), "int32")
    np.testing.assert_array_equal(again.predict_on_batch(tokens), model.predict_on_batch(tokens))


@keras.saving.register_keras_serializable("test_rematerialize")
class Times(keras.layers.Layer):
    """Multiplies by a weight, in the dtype of what it sees."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(1,), initializer="ones", name="kernel")

    def call(self, x):
        return x * ops.cast(self.kernel, x.dtype)


@keras.saving.register_keras_serializable("test_rematerialize")
def same(weight):
    return weight


def reparameterized(layer):
    return Reparameterize(layer, same)


@pytest.mark.parametrize("wrap", [Rematerialize, reparameterized])
def test_the_layer_sees_its_inputs_in_their_own_precision(wrap):
    """Not cast to the global dtype before, which is float32."""
    if keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 without x64")
    x = np.array([[1 + 1e-12]])
    layer = wrap(Times(dtype="float64"))
    for each in (layer, layer.from_config(layer.get_config()), wrap(Times(autocast=False))):
        assert float(ops.convert_to_numpy(ops.stop_gradient(each(x)))[0, 0]) == x[0, 0]
    assert layer.dtype_policy.name == "float64"
    inputs = keras.Input((1,), dtype="float64")
    found = Rematerialize(keras.Model(inputs, layer(inputs)))(x)
    assert float(ops.convert_to_numpy(ops.stop_gradient(found))[0, 0]) == x[0, 0]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_mixed_policy_is_that_of_the_layer(policy):
    seen = []

    class Seeing(keras.layers.Dense):
        def call(self, x):
            seen.append(keras.backend.standardize_dtype(x.dtype))
            return super().call(x)

    layer = Rematerialize(Seeing(2, dtype=policy))
    outputs = layer(np.ones((1, 3), "float32"))
    seen.append(keras.backend.standardize_dtype(outputs.dtype))
    assert set(seen) == {policy.removeprefix("mixed_")}
    assert layer.layer.kernel.dtype == "float32"


def test_the_backward_pass_computes_the_layer_again():
    if keras.backend.backend() == "jax":
        pytest.skip("JAX repeats what it has traced")
    counts = []
    for wrap in (Rematerialize, lambda block: block):
        CALLS.clear()
        trained(wrap, eager=True)
        counts.append(len(CALLS))
    assert counts[0] == counts[1] + 4  # two blocks, two steps
