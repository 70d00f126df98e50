"""Vectors of words that training has seen, and by their n-grams of words that it has not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras.word2vec.arguments import floats, integer, shown
from fastkeras.word2vec.subwords import Bags, check, means, ngram_ids
from fastkeras.word2vec.vectors.vectors import Vectors, named

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from fastkeras.typing import ArrayLike


class SubwordVectors(Vectors):
    """`Vectors` that also give unknown words a vector: the mean of the rows of their n-grams.

    `Word2Vec(subwords=True).vectors` is one. Unknown words may be used in `vectors["unseen"]`,
    `similarity`, `most_similar`, `analogy` and `doesnt_match`; `in`, `len`, iteration, files and
    `evaluation` are about the words that training has seen.

    N-grams whose bucket no known word has were never trained, and are left out of the mean.
    (fastText includes the random numbers with which it initialized them, and so do vectors that
    `fastkeras.word2vec.fasttext` has read.)

    Args:
        words: of the vocabulary.
        matrix: float array (words + buckets, size): the input matrix. The words' vectors are
            computed from it now, those of unknown words on request.
        bags: `subwords.Bags` of the words.
        num_buckets, min_n, max_n: what they were made with.
        counts: as in `Vectors`.

    Raises:
        KeyError: a word is unknown, and so are all its n-grams.
        ValueError: the n-grams of an unknown word have nan or inf, as a file may have them.

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
        counts: ArrayLike | None = None,
    ) -> None:
        if not isinstance(bags, Bags):
            raise TypeError(f"bags={shown(bags)} must be Bags of `fastkeras.word2vec.subwords`")
        matrix = floats("matrix", matrix, None)
        if matrix.ndim != 2 or len(matrix) != bags.num_rows:
            raise ValueError(
                f"matrix has shape {matrix.shape}; it must have a row for each of {bags.num_rows} "
                "words and buckets"
            )
        check(integer("num_buckets", num_buckets, 1), min_n, max_n)
        super().__init__(words, means(matrix, bags), counts)
        self.word_matrix, self.bucket_matrix = matrix[: len(self)], matrix[len(self) :]
        self.buckets, self.num_buckets = bags.buckets, num_buckets
        self.min_n, self.max_n = min_n, max_n

    @classmethod
    def of_parts(
        cls,
        words: Sequence[str],
        matrix: NDArray[Any],
        word_matrix: NDArray[Any],
        buckets: NDArray[np.int32],
        bucket_matrix: NDArray[Any],
        num_buckets: int,
        min_n: int,
        max_n: int,
        counts: ArrayLike | None,
    ) -> SubwordVectors:
        """Put vectors together whose means are known already.

        Args:
            words, counts, num_buckets, min_n, max_n: as above.
            matrix: (words, size), the vectors.
            word_matrix: (words, size), the words' own rows.
            buckets: int32, ascending: those that have a row.
            bucket_matrix: (buckets, size), their rows.
        """
        vectors = cls.__new__(cls)
        Vectors.__init__(vectors, words, matrix, counts)
        vectors.word_matrix, vectors.bucket_matrix = word_matrix, bucket_matrix
        vectors.buckets, vectors.num_buckets = buckets, num_buckets
        vectors.min_n, vectors.max_n = min_n, max_n
        return vectors

    def __getitem__(self, words: str | Sequence[str]) -> NDArray[Any]:
        if not isinstance(words, str):
            rows = [self[word] for word in named(words)]
            return np.array(rows, self.matrix.dtype).reshape(-1, self.size)
        return self.matrix[self.index[words]] if words in self.index else self._of_unknown(words)

    def add_vectors(
        self,
        words: str | Sequence[str],
        vectors: ArrayLike,
        counts: ArrayLike | None = None,
        replace: bool = False,
    ) -> None:
        raise ValueError(
            "SubwordVectors are means of rows that they keep, so none can be set; a copy can be "
            "changed: Vectors(vectors.words, vectors.matrix)"
        )

    def _has_vector(self, word):
        return word in self.index or len(self._rows_of_ngrams(word)) > 0

    def _of_unknown(self, word):
        rows = self._rows_of_ngrams(word)
        if not len(rows):
            raise KeyError(f"{self._unknown(word)}; nor has it an n-gram that one of them has")
        with np.errstate(all="ignore"):
            vector = self.bucket_matrix[rows].mean(axis=0)
        if not np.isfinite(vector).all():  # of a file whose buckets are mapped, and not read before
            raise ValueError(
                f"the n-grams of {word!r} have nan or inf in their rows; all numbers must be finite"
            )
        return vector

    def _rows_of_ngrams(self, word):
        ids, _ = ngram_ids([word], self.num_buckets, self.min_n, self.max_n)
        rows = np.searchsorted(self.buckets, ids)
        there = rows < len(self.buckets)
        there[there] = self.buckets[rows[there]] == ids[there]
        return rows[there]
