"""Vectors to the embedding layer of a Keras model, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from fastkeras.word2vec.arguments import flag, instance, integer, shown
from fastkeras.word2vec.vectors import Vectors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


@keras.saving.register_keras_serializable(package="fastkeras")
class WordEmbedding(keras.layers.Embedding):
    """`keras.layers.Embedding` that knows its words; `to_keras_embedding` makes one.

    Args:
        words: list of strings, or None.
        rows_before: how many other rows (padding, unknown words) precede that of the first word.
        **options: of `keras.layers.Embedding`.

    Example:
        >>> layer = WordEmbedding(words=["cat", "dog"], input_dim=2, output_dim=8)
        >>> layer.words
        ['cat', 'dog']
    """

    def __init__(
        self, *args: Any, words: Sequence[str] | None = None, rows_before: int = 0, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.words, self.rows_before = words and list(words), rows_before

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        own = {"words": self.words, "rows_before": self.rows_before}
        return {**super().get_config(), **own}


def to_keras_embedding(
    vectors: Vectors,
    trainable: bool = False,
    mask_zero: bool = False,
    num_oov_indices: int = 0,
    **options: Any,
) -> WordEmbedding:
    """Return a Keras layer that maps the row of a word to its vector.

    `mask_zero` and `num_oov_indices` put rows of zeros in front. The ids are then those of
    `keras.layers.StringLookup(vocabulary=vectors.words, num_oov_indices=num_oov_indices)`, with
    `mask_token=""` if `mask_zero`.

    Args:
        vectors: `Vectors`.
        trainable: whether training changes the vectors.
        mask_zero: whether the id 0 is padding; all others are then one higher.
        num_oov_indices: how many ids before that of the first word are for unknown words.
        **options: of `keras.layers.Embedding`.

    Returns:
        A built `WordEmbedding`, which keeps the words and is saved with them.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `num_oov_indices` is negative.

    Example:
        >>> import numpy as np
        >>> from fastkeras.word2vec.vectors import Vectors
        >>> vectors = Vectors(["cat", "dog"], np.float32([[1, 2], [3, 4]]))
        >>> layer = to_keras_embedding(vectors, mask_zero=True)
        >>> np.array(layer(np.array([[2, 0]])))
        array([[[3., 4.], [0., 0.]]], dtype=float32)
        >>> vectors_of(layer).words
        ['cat', 'dog']
    """
    instance("vectors", vectors, Vectors), flag("trainable", trainable)
    num_oov_indices = integer("num_oov_indices", num_oov_indices)
    rows_before = num_oov_indices + flag("mask_zero", mask_zero)
    layer = WordEmbedding(
        input_dim=len(vectors) + rows_before,
        output_dim=vectors.size,
        embeddings_initializer="zeros",
        mask_zero=mask_zero,
        trainable=trainable,
        words=vectors.words,
        rows_before=rows_before,
        **options,
    )
    layer.build()
    layer.embeddings.assign(np.pad(vectors.matrix, ((rows_before, 0), (0, 0))))
    return layer


def vectors_of(layer: keras.Layer, words: Sequence[str] | None = None) -> Vectors:
    """Return the `Vectors` in a layer.

    Args:
        layer: `SkipGram`, `CBOW`, what `to_keras_embedding` returned, or any built layer with a
            matrix `embeddings`, such as `keras.layers.Embedding`.
        words: the word of each row; None takes those that the layer knows.

    Returns:
        `Vectors` with a copy of the matrix.

    Raises:
        TypeError: `layer` is no layer of Keras.
        ValueError: the layer is not built, has no `embeddings`, or knows no words and none were
            given.

    Example:
        >>> import keras
        >>> layer = keras.layers.Embedding(2, 8)
        >>> layer.build()
        >>> vectors_of(layer, ["cat", "dog"])
        <Vectors of 2 words, size 8, float32>
    """
    if not isinstance(layer, keras.Layer):
        raise TypeError(f"layer={shown(layer)} must be a layer of Keras")
    if not layer.built:
        raise ValueError(f"layer: {layer.name!r} has no weights yet: call it or `build` it first")
    if not hasattr(layer, "embeddings"):
        raise ValueError(f"layer: {layer.name!r} has no `embeddings`, as an Embedding has")
    matrix = np.array(ops.convert_to_numpy(ops.stop_gradient(layer.embeddings.value)))
    if not np.issubdtype(matrix.dtype, np.floating):  # bfloat16, which NumPy does not know
        matrix = matrix.astype("float32")
    words = getattr(layer, "words", None) if words is None else words
    if words is None:
        raise ValueError(f"words=None must be a word for each row: {layer.name!r} knows none")
    return Vectors(words, matrix[getattr(layer, "rows_before", 0) :])
