"""Vectors of words that training has seen, and by their n-grams of words that it has not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras.word2vec.subwords import means, ngram_ids
from fastkeras.word2vec.vectors.vectors import Vectors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from fastkeras.word2vec.subwords import Bags


class SubwordVectors(Vectors):
    """`Vectors` that also give unknown words a vector: the mean of the rows of their n-grams.

    `Word2Vec(subwords=True).vectors` is one. Unknown words may be used in `vectors["unseen"]`,
    `similarity`, `most_similar`, `analogy` and `doesnt_match`; `in`, `len`, iteration, files and
    `evaluation` are about the words that training has seen.

    N-grams whose bucket no known word has were never trained, and are left out of the mean.
    (fastText includes the random numbers with which it initialized them.)

    Args:
        words: of the vocabulary.
        matrix: float array (words + buckets, size): the input matrix. The words' vectors are
            computed from it now, those of unknown words on request.
        bags: `subwords.Bags` of the words.
        num_buckets, min_n, max_n: what they were made with.

    Raises:
        KeyError: a word is unknown, and so are all its n-grams.

    Example:
        >>> import numpy as np
        >>> from fastkeras.word2vec.subwords import bags_of
        >>> bags = bags_of(["walking", "sleeping"])
        >>> matrix = np.ones((bags.num_rows, 2), np.float32)
        >>> vectors = SubwordVectors(["walking", "sleeping"], matrix, bags)
        >>> vectors["swimming"], "swimming" in vectors  # it has ing, ng>, ing>
        (array([1., 1.], dtype=float32), False)
    """

    def __init__(
        self,
        words: Sequence[str],
        matrix: NDArray[Any],
        bags: Bags,
        num_buckets: int = 2_000_000,
        min_n: int = 3,
        max_n: int = 6,
    ) -> None:
        super().__init__(words, means(matrix, bags))
        self.buckets, self.bucket_matrix = bags.buckets, matrix[len(self.words) :]
        self.word_matrix = matrix[: len(self.words)]
        self.num_buckets, self.min_n, self.max_n = num_buckets, min_n, max_n

    def __getitem__(self, words: str | Sequence[str]) -> NDArray[Any]:
        if not isinstance(words, str):
            rows = [self[word] for word in words]
            return np.array(rows, self.matrix.dtype).reshape(-1, self.size)
        return self.matrix[self.index[words]] if words in self.index else self._of_unknown(words)

    def _of_unknown(self, word):
        ids, _ = ngram_ids([word], self.num_buckets, self.min_n, self.max_n)
        rows = np.searchsorted(self.buckets, ids[np.isin(ids, self.buckets)])
        if not len(rows):
            raise KeyError(f"{self._unknown(word)}; nor has it an n-gram that one of them has")
        return self.bucket_matrix[rows].mean(axis=0)
