"""Layers in half precision compute their sums in float32, and in float64 nothing is narrower."""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import tagging
from fastkeras.layers import (
    ConditionalLayerNormalization,
    GatedAttentionUnit,
    RelativeMultiHeadAttention,
    SequencePooling,
    TransformerDecoder,
)
from fastkeras.training import VirtualAdversarial
from fastkeras.training.gradients.differentiate import value_and_gradients
from fastkeras.training.masking import normalized
from test_encoders import RNG, array, softmax

# NumPy 2 complains about how Keras on TensorFlow and on torch makes arrays of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HALF_ULP = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def wide(x):
    """A tensor of any dtype as a float64 array."""
    return np.array(ops.convert_to_numpy(ops.cast(x, "float32"))).astype(float)


@pytest.fixture
def double():
    if keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 without x64")


@pytest.mark.parametrize("dtype", HALF_ULP)
def test_a_variance_beyond_the_range_of_float16(dtype):
    x = ops.cast(np.array([[-600.0, 600.0]]), dtype)
    found = ConditionalLayerNormalization(dtype=dtype)(x, np.ones((1, 1)))
    np.testing.assert_array_equal(wide(found), [[-1, 1]])


@pytest.mark.parametrize("dtype", HALF_ULP)
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_many_steps_are_pooled_to_the_last_digit(pooling, dtype):
    layer = SequencePooling(pooling, dtype=dtype)
    x = ops.cast(2 + np.random.default_rng(0).random((1, 3000, 2)), dtype)
    layer.build(x.shape)
    layer.set_weights([np.zeros(w.shape) for w in layer.get_weights()])  # all steps the same
    expected = wide(x).mean(1)
    np.testing.assert_allclose(wide(layer(x)), expected, 1.01 * HALF_ULP[dtype])


@pytest.mark.parametrize("dtype", HALF_ULP)
def test_the_softmax_of_nothing_has_no_gradient_in_half_precision(dtype):
    allowed = np.array([[True, True, False], [False, False, False]])
    scores = ops.cast(np.array([[1.0, 2.0, 9.0], [1.0, 2.0, 3.0]]), dtype)

    def total(values):
        weights = normalized(values[0], ops.convert_to_tensor(allowed))
        first = ops.cast(weights, "float32")[:, 0]
        return ops.sum(2 * first) + ops.sum(ops.cast(weights, "float32")), weights

    (_, weights), (gradient,) = value_and_gradients(total, [scores])
    expected = np.array([[*softmax(np.array([1.0, 2.0])), 0], [0, 0, 0]])
    weights = ops.stop_gradient(weights)
    np.testing.assert_allclose(wide(weights), expected, 1.01 * HALF_ULP[dtype])
    slope = 2 * expected[0, 0] * expected[0, 1]
    np.testing.assert_allclose(wide(gradient), [[slope, -slope, 0], [0, 0, 0]], 3 * HALF_ULP[dtype])


def test_gated_attention_in_float64(double):
    q, k = RNG.standard_normal((2, 3, 7, 4))
    scores = np.einsum("btd,bsd->bts", q, k) / 2
    expected = {"softmax": softmax(scores), "squared_relu": np.maximum(scores, 0) ** 2 / 7}
    for name, weights in expected.items():
        layer = GatedAttentionUnit(5, 4, name, dtype="float64")  # on torch Keras' Dense is narrower
        q, k = ops.convert_to_tensor(q), ops.convert_to_tensor(k)
        np.testing.assert_allclose(array(layer._attention(q, k, None)), weights, 1e-13)


def test_positions_in_float64(double):
    x = RNG.standard_normal((1, 2000, 4))
    angles = np.arange(2000)[:, None] * 10000.0 ** (-np.arange(2) / 2)
    expected = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    found = array(tagging.rotary_positions(x))
    np.testing.assert_allclose(found[..., ::2], expected.real, 0, 1e-12)
    np.testing.assert_allclose(found[..., 1::2], expected.imag, 0, 1e-12)
    decoder = TransformerDecoder(3, 4, num_heads=2, num_layers=1, dtype="float64")
    decoder.build((None, None), (None, None, 4))
    decoder.embedding.set_weights([np.zeros((3, 4))])
    embedded = array(decoder._embedded(np.zeros((1, 2000), "int32"), ops.arange(2000)))[0]
    angles = np.arange(2000)[:, None] * 1e-4 ** (np.arange(2) / 2)
    np.testing.assert_allclose(embedded, np.hstack([np.sin(angles), np.cos(angles)]), 0, 1e-12)


def test_sinusoids_of_distances_in_float64(double):
    layer = RelativeMultiHeadAttention(
        1, 2, positions="sinusoids", max_distance=3, use_bias=False, dtype="float64"
    )
    x = np.eye(2)[None]
    layer.build(x.shape, x.shape)
    layer.set_weights([np.zeros((2, 1, 2)), *[np.zeros((2, 1, 2))] * 2, np.eye(2)[None]])
    rows = np.array([[3, 4], [2, 3]])  # distances 0, 1; −1, 0
    expected = np.stack([np.sin(rows).mean(1), np.cos(rows).mean(1)], axis=1)
    np.testing.assert_allclose(array(layer(x, x))[0], expected, 0, 1e-15)


def test_outputs_of_float64_keep_their_digits_in_the_divergence(double):
    logits = RNG.standard_normal((2, 5))
    found = VirtualAdversarial(from_logits=True)._logs(ops.convert_to_tensor(logits))
    np.testing.assert_allclose(array(found), np.log(softmax(logits)), 1e-13)
