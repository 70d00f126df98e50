"""Taggers whose whole training step, the backward pass too, is compiled by XLA."""

import keras
import numpy as np
import pytest

from fastkeras.layers import (
    EfficientGlobalPointer,
    GatedAttentionUnit,
    GlobalPointer,
    RelativeMultiHeadAttention,
    Rematerialize,
    SequencePooling,
    WordPooling,
)
from fastkeras.losses import MultilabelCategoricalCrossentropy, SpanCrossentropy

# NumPy 2 complains about how Keras on TensorFlow and on torch makes arrays of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS, SIZE = 6, 8
RNG = np.random.default_rng(0)
WORDS = RNG.integers(1, 9, (8, STEPS)) * (np.arange(STEPS) < RNG.integers(2, STEPS + 1, (8, 1)))
SPANS = np.array([[[0, 1, 0], [1, 1, 1]]] * 8)
CLASSES = np.array([[0, -1], [2, 1]] * 4)
NUMBERS = np.array([-1, 0, 0, 1, 1, 2])  # of the word that each step is of


def attended(x):
    return RelativeMultiHeadAttention(2, 4, positions="vectors", max_distance=3)(x, x)


def biased(x):
    return RelativeMultiHeadAttention(2, 4, num_buckets=8)(x, x)


def of_words(x):
    numbers = keras.ops.where(keras.ops.ones_like(x[..., 0], "bool"), NUMBERS, -1)
    return keras.layers.GlobalAveragePooling1D()(WordPooling("mean", max_words=3)([x, numbers]))


PARTS = {
    "global pointer": lambda x: GlobalPointer(2, 4)(x),
    "efficient pointer": lambda x: EfficientGlobalPointer(2, 4)(x),
    "gated attention": lambda x: GatedAttentionUnit(5, 4, num_buckets=8)(x),
    "gated softmax": lambda x: GatedAttentionUnit(5, 4, "softmax_plus", causal=True)(x),
    "attention with vectors": attended,
    "attention with a bias": biased,
    "mean": lambda x: SequencePooling("mean")(x),
    "max": lambda x: SequencePooling("max")(x),
    "attention pooling": lambda x: SequencePooling("attention")(x),
    "words": of_words,
    "rematerialized": lambda x: Rematerialize(GatedAttentionUnit(5, 4))(x),
}


def trained(part, policy="float32", is_masked=True, **options):
    """The losses of three steps, and the weights."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        words = keras.Input((STEPS,), dtype="int32")
        wide = keras.initializers.RandomNormal(stddev=1.0)
        x = keras.layers.Embedding(9, SIZE, wide, mask_zero=is_masked)(words)
        x = part(keras.layers.Dense(SIZE)(x))
        if len(x.shape) == 4:
            loss, labels = SpanCrossentropy(), SPANS
        else:
            x = keras.layers.GlobalAveragePooling1D()(x) if len(x.shape) == 3 else x
            x = keras.layers.Dense(3, dtype="float32")(x)
            loss, labels = MultilabelCategoricalCrossentropy(sparse=True), CLASSES
        model = keras.Model(words, x)
        model.compile(keras.optimizers.SGD(0.1), loss, **options)
        losses = [model.train_on_batch(WORDS, labels) for _ in range(3)]
    finally:
        keras.config.set_dtype_policy("float32")
    return losses, [np.asarray(weight) for weight in model.get_weights()]


@pytest.mark.parametrize("name", PARTS)
def test_a_step_under_xla_is_that_of_the_graph(name):
    losses, weights = trained(PARTS[name], jit_compile=True)
    expected_losses, expected = trained(PARTS[name], jit_compile=False)
    np.testing.assert_allclose(losses, expected_losses, 1e-5)
    assert losses[-1] < losses[0]
    for weight, wanted in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, wanted, 1e-4, 1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_rematerialized_blocks_have_the_noise_and_precision_of_their_layers(policy, jit_compile):
    def network(wrap):
        def part(x):
            for seed in range(2):
                dropout = keras.layers.Dropout(0.3, seed=seed)
                block = [keras.layers.Dense(16, "gelu"), dropout, keras.layers.Dense(SIZE)]
                x = wrap(keras.Sequential(block))(x)
            return x

        return trained(part, policy, is_masked=False, jit_compile=jit_compile)

    losses, weights = network(Rematerialize)
    expected_losses, expected = network(lambda block: block)
    # XLA may keep float32 between operations of one program, and not of two
    tolerance = {"float32": 1e-5, "mixed_float16": 2e-3, "mixed_bfloat16": 2e-2}[policy]
    np.testing.assert_allclose(losses, expected_losses, tolerance)
    for weight, wanted in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, wanted, 0, tolerance)
