"""Taggers as libraries built them on TensorFlow Addons, from their published architectures.

DeLFT (kermitt2/delft) wraps recurrent and BERT encoders in `CRFModelWrapper`; Rasa's DIET (Bunk et
al., 2020) has a layer of its own around the functions of `tfa.text`, beside a loss of intents.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import fastkeras.compat.addons as tfa

# NumPy 2 warns about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SENTENCES, STEPS, LETTERS, TAGS = 32, 7, 3, 4


@pytest.fixture
def sentences(rng):
    """Words as vectors, letters, numbers, features; lengths; tags that depend on two words."""
    keras.utils.set_random_seed(0)
    numbers = rng.integers(1, 9, (SENTENCES, STEPS))
    lengths = rng.integers(3, STEPS + 1, SENTENCES)
    numbers[np.arange(STEPS) >= lengths[:, None]] = 0
    tags = np.where(np.roll(numbers, 1, axis=1) > 5, 3, numbers % 3)
    tags[:, 0] = numbers[:, 0] % 3
    tags[numbers == 0] = 0
    vectors = np.eye(9, dtype="float32")[numbers] * (numbers > 0)[..., None]
    letters = np.stack([numbers, *([numbers % 4] * (LETTERS - 1))], axis=-1)
    features = np.stack([numbers % 2, numbers % 4], axis=-1)
    data = {"vectors": vectors, "letters": letters, "numbers": numbers, "features": features}
    return data, lengths, tags


def share_right(found, tags, lengths):
    valid = np.arange(STEPS) < lengths[:, None]
    return (np.asarray(found) == tags)[valid].mean()


def of_letters_by_lstm(letters):
    """After Lample et al., 2016."""
    x = layers.TimeDistributed(layers.Embedding(10, 6, mask_zero=False))(letters)
    return layers.TimeDistributed(layers.Bidirectional(layers.LSTM(6)))(x)


def of_letters_by_convolution(letters):
    """After Chiu & Nichols, 2016, and Ma & Hovy, 2016."""
    x = layers.TimeDistributed(layers.Embedding(10, 6, mask_zero=False))(letters)
    x = layers.TimeDistributed(layers.Conv1D(12, 3, padding="same", activation="tanh"))(x)
    return layers.TimeDistributed(layers.GlobalMaxPooling1D())(x)


def recurrent(of_letters=of_letters_by_lstm, cell=layers.LSTM, times=1, features=0):
    """Letters, words and features of words; a recurrent layer, or two; a tanh, a CRF."""
    vectors = keras.Input((None, 9))
    letters = keras.Input((None, LETTERS), dtype="int32")
    inputs = {"vectors": vectors, "letters": letters}
    parts = [layers.Masking()(vectors), of_letters(letters)]
    if features:
        inputs["features"] = keras.Input((None, features), dtype="int32")
        x = layers.TimeDistributed(layers.Embedding(4, 4))(inputs["features"])
        parts.append(layers.TimeDistributed(layers.Bidirectional(layers.LSTM(4)))(x))
    x = layers.Dropout(0.1)(layers.Concatenate()(parts))
    for _ in range(times):
        x = layers.Bidirectional(cell(12, return_sequences=True))(x)
        x = layers.Dropout(0.1)(x)
    x = layers.Dense(12, activation="tanh")(x)
    return keras.Model([*inputs.values()], x), tuple(inputs)


def bert_crf():
    """DeLFT's BERT_CRF: the encoder's vectors, dropped out, and a CRF with its own projection."""
    numbers = keras.Input((None,), dtype="int32")
    x = layers.Embedding(9, 16, mask_zero=True)(numbers)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 8)(x, x))
    x = layers.LayerNormalization()(x + layers.Dense(16)(layers.Dense(32, "gelu")(x)))
    return keras.Model(numbers, layers.Dropout(0.1)(x)), ("numbers",)


def bidlstm_crf():
    """DeLFT's BidLSTM_CRF."""
    return recurrent()


def bidlstm_cnn_crf():
    """DeLFT's BidLSTM_CNN_CRF, with its features of words."""
    return recurrent(of_letters_by_convolution, features=2)


def bidgru_crf():
    """DeLFT's BidGRU_CRF, whose recurrent layers are two."""
    return recurrent(cell=layers.GRU, times=2)


DELFT = ((bidlstm_crf, 0.75), (bidlstm_cnn_crf, 0.75), (bidgru_crf, 0.75), (bert_crf, 0.7))


@pytest.mark.parametrize(("architecture", "enough"), DELFT)
def test_delft(architecture, enough, sentences):
    data, lengths, tags = sentences
    base, names = architecture()
    inputs = [data[name] for name in names]
    inputs = inputs if len(inputs) > 1 else inputs[0]
    model = tfa.text.CRFModelWrapper(base, TAGS)
    model.compile(keras.optimizers.Adam(0.05))
    losses = model.fit(inputs, tags, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.6 * losses[0]
    found = model.predict(inputs, verbose=0)
    assert share_right(found, tags, lengths) > enough


def test_weights_of_delft_are_saved(sentences, tmp_path):
    numbers = sentences[0]["numbers"]
    first, second = (tfa.text.CRFModelWrapper(bert_crf()[0], TAGS) for _ in range(2))
    found = [model.predict(numbers, verbose=0) for model in (first, second)]
    assert (found[0] != found[1]).any()
    first.save_weights(tmp_path / "delft.weights.h5")
    second.load_weights(tmp_path / "delft.weights.h5")
    np.testing.assert_array_equal(second.predict(numbers, verbose=0), found[0])


class RasaCRF(layers.Layer):
    """Loss and decoding as Rasa needs them, over the functions of Addons."""

    def build(self, input_shape):
        self.transition_params = self.add_weight((TAGS, TAGS), name="transitions")

    def call(self, logits, lengths):
        tags, _ = tfa.text.crf_decode(logits, self.transition_params, lengths)
        return tf.where(tf.sequence_mask(lengths, tf.shape(logits)[1]), tags, 0)

    def loss(self, logits, tags, lengths):
        likelihood, _ = tfa.text.crf_log_likelihood(logits, tags, lengths, self.transition_params)
        return -tf.reduce_mean(likelihood)


class Diet(keras.Model):
    """A transformer over tokens and a last one for the sentence; entities by a CRF, and intents."""

    def __init__(self):
        super().__init__()
        self.feed_forward = layers.Dense(16, activation="gelu")
        self.positions = layers.Embedding(STEPS + 1, 16)
        self.attention = layers.MultiHeadAttention(2, 8)
        self.local = layers.Conv1D(16, 3, padding="same")
        self.entities, self.intents = layers.Dense(TAGS), layers.Dense(2)
        self.crf = RasaCRF()

    def call(self, inputs):
        vectors, lengths = inputs
        x = self.feed_forward(vectors) + self.positions(tf.range(tf.shape(vectors)[1]))
        mask = tf.sequence_mask(lengths, tf.shape(vectors)[1])
        x = x + self.attention(x, x, attention_mask=mask[:, None])
        x = x + self.local(x)
        logits = self.entities(x)
        sentence = tf.reduce_sum(tf.where(mask[..., None], x, 0), axis=1)
        return logits, self.crf(logits, lengths), self.intents(sentence)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        (tags, intents), (logits, _, scores) = y, y_pred
        of_intents = keras.losses.sparse_categorical_crossentropy(intents, scores, from_logits=True)
        return self.crf.loss(logits, tags, x[1]) + tf.reduce_mean(of_intents)


def test_rasa(sentences):
    data, lengths, tags = sentences
    intents = (tags == 3).any(axis=1).astype(int)
    model = Diet()
    model.compile(keras.optimizers.Adam(0.02))
    inputs = [data["vectors"], lengths]
    losses = model.fit(inputs, [tags, intents], epochs=25, verbose=0).history["loss"]
    assert losses[-1] < 0.4 * losses[0]
    _, found, _ = model.predict(inputs, verbose=0)
    assert share_right(found, tags, lengths) > 0.8
    assert not found[np.arange(STEPS) >= lengths[:, None]].any()


def test_rasa_saves_weights_and_loads_them_after_a_step_of_training(sentences, tmp_path):
    """A new model has its weights only after it was fit to an example, as Rasa does."""
    data, lengths, tags = sentences
    inputs, labels = [data["vectors"], lengths], [tags, (tags == 3).any(axis=1).astype(int)]
    first, second = Diet(), Diet()
    for model, examples in ((first, SENTENCES), (second, 1)):
        model.compile(keras.optimizers.Adam(0.02))
        of = ([array[:examples] for array in arrays] for arrays in (inputs, labels))
        model.fit(*of, epochs=2, verbose=0)
    found = first.predict(inputs, verbose=0)
    assert (second.predict(inputs, verbose=0)[0] != found[0]).any()
    first.save_weights(tmp_path / "rasa.weights.h5")
    second.load_weights(tmp_path / "rasa.weights.h5")
    for ours, theirs in zip(second.predict(inputs, verbose=0), found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
