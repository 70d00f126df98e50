"""Ragged tensors of TensorFlow: the same as padded ones with a mask, in fit and predict."""

import keras
import numpy as np
import pytest

from fastkeras.layers import CRF, EfficientGlobalPointer, PadRagged, SemiMarkovCRF, WordPooling
from fastkeras.losses import SpanCrossentropy

tf = pytest.importorskip("tensorflow")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RNG = np.random.default_rng(4)
LENGTHS = [3, 5, 1, 4]
TOKENS = tf.RaggedTensor.from_row_lengths(RNG.integers(1, 9, 13), LENGTHS)
TAGS = tf.RaggedTensor.from_row_lengths(RNG.integers(0, 3, 13), LENGTHS)
MASK = np.arange(5) < np.array(LENGTHS)[:, None]


def tagger(first=(), is_ragged=True, with_lstm=False):
    """The same weights, whatever comes first."""
    keras.utils.set_random_seed(2)
    words = keras.Input((None,), dtype="int32", ragged=is_ragged)
    x = words
    for layer in (*first, keras.layers.Embedding(9, 4, mask_zero=True)):
        x = layer(x)
    if with_lstm:
        x = keras.layers.LSTM(3, return_sequences=True)(x)
    crf = CRF(3, use_kernel=True)
    model = keras.Model(words, crf(x))
    model.compile("sgd", crf.loss, metrics=[crf.accuracy])
    return model, crf


def test_training_is_that_of_padded_sequences():
    padded, _ = tagger((), False, True)
    ragged, _ = tagger([PadRagged()], True, True)
    dense = TOKENS.to_tensor(), TAGS.to_tensor(default_value=-7)
    for model, data in ((padded, dense), (ragged, (TOKENS, TAGS))):
        model.fit(*data, batch_size=4, shuffle=False, verbose=0)
    ours, expected = ragged.evaluate(TOKENS, TAGS, verbose=0), padded.evaluate(*dense, verbose=0)
    np.testing.assert_allclose(ours, expected, 1e-6)
    for a, b in zip(ragged.get_weights(), padded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-7)


def test_segments_of_ragged_sequences():
    vectors = tf.RaggedTensor.from_row_lengths(RNG.standard_normal((13, 4)), LENGTHS)
    layer = SemiMarkovCRF(3, 2, use_kernel=True)
    losses = [
        layer.loss(TAGS, layer(vectors)),
        layer.loss(TAGS.to_tensor(), layer(vectors.to_tensor(), mask=MASK)),
    ]
    np.testing.assert_allclose(*losses, 1e-6)


def test_the_layer_itself_takes_lengths_from_ragged_embeddings():
    (padded, _), (ragged, crf) = tagger((), False), tagger()
    scores = padded(TOKENS.to_tensor())
    ours = ragged(TOKENS)
    np.testing.assert_allclose(np.where(MASK[..., None], ours, 0), scores * MASK[..., None], 1e-6)
    losses = crf.loss(TAGS, ours), crf.loss(TAGS.to_tensor(), scores)
    np.testing.assert_allclose(*losses, 1e-6)
    weights = tf.ones_like(TAGS, "float32") * 0.5
    np.testing.assert_allclose(crf.loss(TAGS, ours, weights), 0.5 * losses[0], 1e-6)
    data = tf.data.Dataset.from_tensor_slices((TOKENS, TAGS)).batch(4)
    assert np.isfinite(ragged.fit(data, shuffle=False, verbose=0).history["loss"][0])
    decoded = crf.decode(ragged).predict(TOKENS, verbose=0)
    again = crf.decode(ragged).predict(TOKENS, batch_size=3, verbose=0)  # batches of 5 and 4 steps
    for row, other, length in zip(decoded, again, LENGTHS, strict=True):
        np.testing.assert_array_equal(row[:length], other[:length])
        assert not row[length:].any()


def test_labels_of_other_lengths_are_no_tags():
    ragged, crf = tagger()
    short = tf.RaggedTensor.from_row_lengths(RNG.integers(0, 3, 12), [3, 5, 1, 3])
    message = r"in 0\.\.2 .* got 2147483647 at \[3, 3\]"  # in place of the label that is missing
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        crf.loss(short, ragged(TOKENS))


def test_spans_and_words_may_be_ragged():
    vectors = tf.RaggedTensor.from_row_lengths(RNG.standard_normal((13, 4)), LENGTHS)
    layer = EfficientGlobalPointer(2, head_size=4)
    scores = layer(vectors)
    np.testing.assert_allclose(scores, layer(vectors.to_tensor(), mask=MASK), 1e-5, 1e-6)
    spans = tf.RaggedTensor.from_row_lengths([[0, 1, 1], [2, 2, 0], [3, 3, 1]], [1, 1, 0, 1])
    losses = [SpanCrossentropy()(y, scores) for y in (spans, spans.to_tensor(default_value=-1))]
    np.testing.assert_array_equal(*losses)
    numbers = tf.RaggedTensor.from_row_lengths([0, 0, 1, 0, 1, 1, 2, 2, 0, -1, 0, 1, 1], LENGTHS)
    pooling = WordPooling("mean")
    ours = pooling([vectors, numbers])
    dense = [vectors.to_tensor(), numbers.to_tensor(default_value=-1)]
    np.testing.assert_array_equal(ours, pooling(dense))
    np.testing.assert_array_equal(
        pooling.compute_mask([vectors, numbers]), pooling.compute_mask(dense)
    )


def test_a_length_that_is_given_is_that_of_all_results(tmp_path):
    model, crf = tagger([PadRagged(steps=6)])
    decoder = crf.decode(model)
    decoder.save(tmp_path / "decoder.keras")
    decoder = keras.models.load_model(tmp_path / "decoder.keras")
    assert decoder.predict(TOKENS, batch_size=3, verbose=0).shape == (4, 6)
    longer = tf.RaggedTensor.from_row_lengths(RNG.integers(1, 9, 7), [7])
    with pytest.raises(tf.errors.InvalidArgumentError, match="longer than the 6 steps"):
        decoder.predict(longer, verbose=0)
    dense = TOKENS.to_tensor()
    assert not PadRagged().supports_jit  # so that on a GPU Keras does not compile it by XLA
    np.testing.assert_array_equal(PadRagged()(dense), dense)
    with pytest.raises(ValueError, match="steps=0 must be None or an integer of at least 1"):
        PadRagged(0)
