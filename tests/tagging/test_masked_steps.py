"""What stands at masked steps, NaN too, is not felt: neither in results nor in any gradient."""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras.layers import (
    AttentionDecoder,
    ConditionalLayerNormalization,
    EfficientGlobalPointer,
    GatedAttentionUnit,
    GlobalPointer,
    RelativeMultiHeadAttention,
    SequencePooling,
    TransformerDecoder,
    WordPooling,
)

# NumPy 2 complains about how Keras on TensorFlow and on torch makes arrays of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS, SIZE = 5, 4
MASK = np.arange(STEPS) < np.array([[5], [2], [0]])
TOKENS = np.array([[1, 2], [2, 1], [1, 1]])


def attention(**options):
    layer = RelativeMultiHeadAttention(2, 4, dtype="float32", **options)
    return lambda x, mask: layer(x, x, query_mask=mask, value_mask=mask)


def to_itself(layer):
    return lambda x, mask: layer(x, mask=mask)


def of_words(pooling):
    layer = WordPooling(pooling)
    return lambda x, mask: layer([x, ops.where(mask, np.arange(STEPS), -1)])


def normalization():
    layer = ConditionalLayerNormalization()
    return lambda x, mask: layer(x, x, inputs_mask=mask, condition_mask=mask)


def decoder(layer):
    return lambda x, mask: layer(TOKENS, x, encoded_mask=mask)


LAYERS = {
    "gated attention": lambda: to_itself(GatedAttentionUnit(5, 4, use_bias=True)),
    "gated softmax": lambda: to_itself(GatedAttentionUnit(5, 4, "softmax", num_buckets=8)),
    "global pointer": lambda: to_itself(GlobalPointer(2, 4)),
    "efficient pointer": lambda: to_itself(EfficientGlobalPointer(2, 4)),
    "attention with a bias": attention,
    "attention with sinusoids": lambda: attention(positions="sinusoids"),
    "attention with vectors": lambda: attention(positions="vectors", max_distance=2),
    "mean": lambda: to_itself(SequencePooling("mean")),
    "max": lambda: to_itself(SequencePooling("max")),
    "attention pooling": lambda: to_itself(SequencePooling("attention")),
    "first subword": lambda: of_words("first"),
    "mean of subwords": lambda: of_words("mean"),
    "conditional normalization": normalization,
    "attention decoder": lambda: decoder(AttentionDecoder(3, keras.layers.GRUCell(4), 4)),
    "transformer decoder": lambda: decoder(TransformerDecoder(3, 4, num_heads=2, num_layers=1)),
}


def trained(name, filler):
    """The weights after one step on inputs with the filler at masked steps, and the output."""
    keras.utils.set_random_seed(0)
    x, mask = keras.Input((STEPS, SIZE)), keras.Input((STEPS,), dtype="bool")
    dense = keras.layers.Dense(SIZE)  # so that the layer has to pass gradients on
    hidden = ops.where(mask[..., None], dense(ops.where(mask[..., None], x, 0)), x)
    output = LAYERS[name]()(hidden, mask)
    axes = tuple(range(1, len(output.shape)))
    total = ops.sum(ops.square(ops.where(output > -1e9, output, 0)), axis=axes)  # without −inf
    model = keras.Model([x, mask], total)
    optimizer = keras.optimizers.SGD(0.01)
    model.compile(optimizer, lambda _, total: ops.sum(total), run_eagerly=True)
    given = np.random.default_rng(0).standard_normal((3, STEPS, SIZE)).astype("float32")
    given = [np.where(MASK[..., None], given, np.float32(filler)), MASK]
    found = np.asarray(keras.Model([x, mask], output).predict_on_batch(given))
    model.train_on_batch(given, np.zeros(3, "float32"))
    return [np.asarray(weight) for weight in model.get_weights()], found


@pytest.mark.parametrize("name", LAYERS)
def test_a_nan_at_a_masked_step_is_not_felt(name):
    weights, found = trained(name, np.nan)
    expected_weights, expected = trained(name, 0.0)
    np.testing.assert_array_equal(found, expected)
    assert not np.isnan(found).any()
    for weight, wanted in zip(weights, expected_weights, strict=True):
        np.testing.assert_array_equal(weight, wanted)
        assert np.isfinite(weight).all()


def test_the_mask_goes_on_after_a_conditional_normalization():
    words = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 4, mask_zero=True)(words)
    x = ConditionalLayerNormalization()(x, SequencePooling()(x))
    assert getattr(x, "_keras_mask", None) is not None
