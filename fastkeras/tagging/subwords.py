"""From the words of a sentence to the subwords that a tokenizer makes of them, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from fastkeras.crf.layers.ragged import filled, padded
from fastkeras.training.arguments import integers, is_integer, one_of, optional_integer
from fastkeras.training.masking import without_masked

if TYPE_CHECKING:
    import numpy.typing as npt

    from fastkeras.typing import ArrayLike, Tensor

POOLINGS = ("first", "last", "mean")
NO_WORD = -1


def word_numbers(word_ids: Sequence[Sequence[int | None]]) -> npt.NDArray[np.int32]:
    """The word of each subword as an array, from lists with None, as fast tokenizers return them.

    Args:
        word_ids: for each sequence, the number of the word that each subword is of, or None for
            tokens such as [CLS].

    Returns:
        int32, shape (sequences, longest), with −1 for None and for padding.

    Raises:
        ValueError: a number that is not whole.

    Example:
        >>> from fastkeras.tagging import word_numbers
        >>> word_numbers([[None, 0, 1, 1, None], [None, 0, None]])
        array([[-1,  0,  1,  1, -1],
               [-1,  0, -1, -1, -1]], dtype=int32)

    Source: Devlin et al., 2019, "BERT", section 5.3.
    """
    numbers = np.full((len(word_ids), max(map(len, word_ids), default=0)), NO_WORD, np.int32)
    for row, ids in zip(numbers, word_ids, strict=True):
        given = [NO_WORD if word is None else word for word in ids]
        row[: len(ids)] = integers("word_ids", given)
    return numbers


def first_subwords(word_numbers: ArrayLike) -> npt.NDArray[np.bool_]:
    """The mask of a CRF over subwords: the first one of each word.

    Args:
        word_numbers: integers, shape (batch, steps), below 0 where no word is.

    Returns:
        Bool, shape (batch, steps). The chain skips the other steps, so that neighbouring words have
        neighbouring tags, however many subwords they have.

    Raises:
        ValueError: a number that is not whole.

    Example:
        >>> import numpy as np
        >>> from fastkeras.tagging import first_subwords
        >>> first_subwords(np.array([[-1, 0, 1, 1, -1]]))
        array([[False,  True,  True, False, False]])

    Source: Devlin et al., 2019, "BERT", section 5.3.
    """
    numbers = integers("word_numbers", word_numbers)
    before = np.concatenate([np.full_like(numbers[:, :1], NO_WORD), numbers[:, :-1]], axis=1)
    return (numbers >= 0) & (numbers != before)


def subword_labels(
    tags: Sequence[Sequence[int]], word_numbers: ArrayLike, ignored: int = -100
) -> npt.NDArray[np.int32]:
    """Labels of subwords: the tag of a word at its first subword, and `ignored` elsewhere.

    Args:
        tags: for each sequence, the tags of its words.
        word_numbers: integers, shape (batch, steps), below 0 where no word is.
        ignored: the label of other steps, for `CRFLoss(ignore_class=-100)`.

    Returns:
        int32, shape (batch, steps).

    Raises:
        ValueError: a word without a tag, a tag or a number that is not whole, or `ignored` is no
            integer.

    Example:
        >>> import numpy as np
        >>> from fastkeras.tagging import subword_labels
        >>> subword_labels([[3, 5]], np.array([[-1, 0, 1, 1, -1]]))
        array([[-100,    3,    5, -100, -100]], dtype=int32)

    Source: Devlin et al., 2019, "BERT", section 5.3.
    """
    if not is_integer(ignored):
        raise ValueError(f"ignored={ignored!r} must be an integer, such as -100")
    numbers = integers("word_numbers", word_numbers)
    labels = np.full(numbers.shape, ignored, np.int32)
    for row, words, is_first, of in zip(
        labels, numbers, first_subwords(numbers), tags, strict=True
    ):
        if words.max(initial=NO_WORD) >= len(of):
            raise ValueError(
                f"tags must be one for each word: there are {len(of)}, and a word "
                f"{words.max()} (words are counted from 0)"
            )
        row[is_first] = integers("tags", of)[words[is_first]]
    return labels


@keras.saving.register_keras_serializable("fastkeras")
class WordPooling(keras.layers.Layer):
    """One vector for each word, from those of its subwords.

    Called with [vectors, word_numbers]. The words come first, in their order, and the steps after
    the last one are masked; so a `CRF` after it has as many steps as there are words.

    Args:
        pooling: which vector: that of the "first" subword, of the "last", or their "mean".
        max_words: the steps of the result; None for as many as there are subwords.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        inputs: a list of vectors, float, shape (batch, steps, channels), and of the number of the
            word that each subword is of, integers, shape (batch, steps), below 0 where no word is;
            each of them may be a `tf.RaggedTensor`.

    Returns:
        Shape (batch, max_words, channels), 0 where there is no word, with a mask of the words. A
        word all of whose subwords were cut off is masked.

    Raises:
        ValueError: another pooling, or fewer than one word.

    Example:
        >>> import numpy as np
        >>> from fastkeras.layers import WordPooling
        >>> vectors = np.array([[[1.0], [2.0], [4.0], [8.0]]])
        >>> words = WordPooling("mean", max_words=3)([vectors, np.array([[-1, 0, 0, 1]])])
        >>> np.asarray(words)[0, :, 0].tolist()
        [3.0, 8.0, 0.0]

    Source: Devlin et al., 2019, "BERT", section 5.3, for the first subword.
    """

    def __init__(self, pooling: str = "first", max_words: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pooling = one_of("pooling", pooling, POOLINGS)
        self.max_words = optional_integer("max_words", max_words, 1)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Nothing to make."""
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        """See the docstring of the class."""
        vectors, numbers = padded(inputs[0])[0], inputs[1]
        is_of = self._is_of(numbers)
        if self.pooling != "mean":
            steps = ops.shape(is_of)[-1]
            order = ops.arange(steps, dtype="int32")
            if self.pooling == "first":
                order = steps - order
            best = ops.where(is_of, order + 1, 0)
            best = ops.max(best, axis=-1, keepdims=True, initial=0)  # also where there is no step
            is_of = is_of & (order + 1 == best)
        vectors = without_masked(vectors, ops.any(is_of, axis=1))
        weights = ops.cast(is_of, vectors.dtype)
        total = ops.sum(weights, axis=-1, keepdims=True)
        return ops.matmul(weights / ops.maximum(total, 1), vectors)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor = None) -> Tensor:
        """Where there are words, bool (batch, max_words)."""
        return ops.any(self._is_of(inputs[1]), axis=-1)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """(batch, max_words, channels)."""
        batch, steps, channels = input_shape[0]
        return (batch, self.max_words or steps, channels)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {**super().get_config(), "pooling": self.pooling, "max_words": self.max_words}

    def _is_of(self, numbers):
        """Whether a subword is of a word, bool (batch, words, steps)."""
        numbers = ops.cast(filled(numbers, NO_WORD), "int32")
        if self.max_words is None:  # 0, 1, 2 … also where a symbolic tensor has no known steps
            words = ops.cumsum(ops.ones_like(numbers), axis=1) - 1
        else:
            words = ops.arange(self.max_words, dtype="int32")[None]
        return ops.equal(numbers[:, None], words[:, :, None])  # == compares objects there
