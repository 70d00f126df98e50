"""`Rematerialize`: the values, gradients and state of the layer, computed a second time."""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras.layers import Rematerialize

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


def test_the_backward_pass_computes_the_layer_again():
    if keras.backend.backend() == "jax":
        pytest.skip("JAX repeats what it has traced")
    counts = []
    for wrap in (Rematerialize, lambda block: block):
        CALLS.clear()
        trained(wrap, eager=True)
        counts.append(len(CALLS))
    assert counts[0] == counts[1] + 4  # two blocks, two steps
