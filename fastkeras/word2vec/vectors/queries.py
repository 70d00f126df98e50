"""The questions that vectors of words answer: what is near, how near, and which does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras.word2vec.arguments import integer
from fastkeras.word2vec.vectors import search
from fastkeras.word2vec.vectors.search import unit_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from fastkeras.typing import ArrayLike

COSMUL_EPSILON = 1e-6  # of Levy & Goldberg


class Queries:
    """What `Vectors` can be asked; all angles are between vectors, whatever their lengths.

    A vector of zeros has the cosine 0 with all others.
    """

    words: list[str]
    matrix: NDArray[Any]
    index: dict[str, int]

    if TYPE_CHECKING:  # what `Vectors` has

        @property
        def size(self) -> int: ...
        @property
        def norms(self) -> NDArray[Any]: ...
        def __getitem__(self, words: str | Sequence[str]) -> NDArray[Any]: ...
        def _has_vector(self, word: str) -> bool: ...

    def similarity(self, a: str, b: str) -> float:
        """Return the cosine of the angle between two words' vectors, 0 if one is zero."""
        a, b = unit_rows(self[[a, b]].astype(np.float64))
        return float(a @ b)

    def distance(self, a: str, b: str) -> float:
        """Return 1 − the cosine of the angle between two words' vectors, from 0 to 2."""
        return 1 - self.similarity(a, b)

    def distances(
        self, word: str | NDArray[Any], others: Sequence[str] | None = None
    ) -> NDArray[Any]:
        """Return 1 − the cosine of a word or vector with each of others.

        Args:
            word: word, or array (size,).
            others: list of words; None takes all, in the order of the rows.

        Returns:
            Array (others,).

        Example:
            >>> import numpy as np
            >>> from fastkeras.word2vec.vectors import Vectors
            >>> vectors = Vectors(["cat", "dog", "sea"], np.array([[1, 0], [2, 0], [0, 3.0]]))
            >>> vectors.distances("cat")
            array([0., 0., 1.])
        """
        unit = unit_rows(self._vector(word)[None])
        if others is None:
            return 1 - self._cosines(unit)[0]
        others = list(others)
        return 1 - (unit_rows(self[others].astype(np.float64)) @ unit[0] if others else np.empty(0))

    def most_similar(
        self,
        positive: str | NDArray[Any] | Sequence[str | NDArray[Any]] = (),
        negative: str | NDArray[Any] | Sequence[str | NDArray[Any]] = (),
        topn: int = 10,
        restrict_vocab: int | None = None,
    ) -> list[tuple[str, float]]:
        """Return the words nearest to the mean of some vectors and of the negatives of others.

        Args:
            positive: word or vector, or a list of them.
            negative: the same; their vectors enter the mean with a minus. All vectors are scaled to
                length 1 first, as in gensim.
            topn: how many words to return, at least 1; fewer if there are not so many.
            restrict_vocab: search only the first so many words; None searches all.

        Returns:
            List of pairs `(word, cosine)`, the nearest first, without the words asked for.

        Raises:
            KeyError: a word has no vector.
            ValueError: both are empty, or a vector has another size or is not finite.
        """
        positive, negative = _terms(positive, negative)
        terms = np.stack([self._vector(term) for term in [*positive, *negative]])
        signs = np.repeat([1.0, -1.0], [len(positive), len(negative)])
        query = signs @ unit_rows(terms) / len(signs)
        excluded = self._rows_of([*positive, *negative])
        rows, cosines = self.nearest(query[None], topn, [excluded], restrict_vocab)
        found = np.isfinite(cosines[0])
        return self._named(rows[0][found], cosines[0][found])

    def most_similar_cosmul(
        self,
        positive: str | NDArray[Any] | Sequence[str | NDArray[Any]] = (),
        negative: str | NDArray[Any] | Sequence[str | NDArray[Any]] = (),
        topn: int = 10,
        restrict_vocab: int | None = None,
    ) -> list[tuple[str, float]]:
        """Return the words whose cosines with some words are high, and with others low.

        Levy & Goldberg 2014, Linguistic Regularities in Sparse and Explicit Word Representations,
        3CosMul: the cosines, shifted to 0 … 1, are multiplied rather than added, so that none of
        them outweighs the others.

        Args:
            positive, negative, topn, restrict_vocab: as in `most_similar`.

        Returns:
            List of pairs `(word, product)`, the highest first, without the words asked for.

        Raises:
            KeyError, ValueError: as in `most_similar`.

        Example:
            >>> import numpy as np
            >>> from fastkeras.word2vec.vectors import Vectors
            >>> words = ["man", "woman", "king", "queen", "apple"]
            >>> matrix = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1], [-1, -1, 0.0]])
            >>> Vectors(words, matrix).most_similar_cosmul(["king", "woman"], ["man"], 1)[0][0]
            'queen'
        """
        integer("topn", topn, 1, None)
        if restrict_vocab is not None:
            integer("restrict_vocab", restrict_vocab, 1, None)
        positive, negative = _terms(positive, negative)
        unit = unit_rows(np.stack([self._vector(term) for term in [*positive, *negative]]))
        shifted = (1 + self._cosines(unit, restrict_vocab)) / 2
        products = shifted[: len(positive)].prod(0)
        products /= shifted[len(positive) :].prod(0) + COSMUL_EPSILON
        excluded = [row for row in self._rows_of([*positive, *negative]) if row < len(products)]
        products[excluded] = -np.inf
        rows = np.argsort(-products, kind="stable")[: min(topn, len(products) - len({*excluded}))]
        return self._named(rows, products[rows])

    def analogy(self, a: str, b: str, c: str, topn: int = 10) -> list[tuple[str, float]]:
        """Return the words that are to `c` what `b` is to `a`: `analogy("man", "king", "woman")`.

        Example:
            >>> import numpy as np
            >>> from fastkeras.word2vec.vectors import Vectors
            >>> words = ["man", "woman", "king", "queen", "apple"]
            >>> matrix = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1], [-1, -1, 0.0]])
            >>> Vectors(words, matrix).analogy("man", "king", "woman", topn=1)[0][0]
            'queen'
        """
        return self.most_similar([b, c], [a], topn)

    def closer_than(self, a: str, b: str) -> list[str]:
        """Return the words that are nearer to `a` than `b` is, in the order of the rows.

        Example:
            >>> import numpy as np
            >>> from fastkeras.word2vec.vectors import Vectors
            >>> vectors = Vectors(["cat", "dog", "sea"], np.array([[1, 0], [2, 1], [0, 3.0]]))
            >>> vectors.closer_than("cat", "sea"), vectors.rank("cat", "sea")
            (['dog'], 2)
        """
        cosines = self._cosines(unit_rows(self._vector(a)[None]))[0]
        limit = cosines[self.index[b]] if b in self.index else self.similarity(a, b)
        nearer = np.flatnonzero(cosines > limit)
        return [self.words[row] for row in nearer if self.words[row] not in (a, b)]

    def rank(self, a: str, b: str) -> int:
        """Return which place `b` has among the words nearest to `a`; the nearest has place 1."""
        return len(self.closer_than(a, b)) + 1

    def relative_cosine_similarity(self, a: str, b: str, topn: int = 10) -> float:
        """Return the cosine of two words, divided by the sum of those of the words nearest to `a`.

        Leeuwenberg et al. 2016, A Minimally Supervised Approach for Synonym Extraction with Word
        Embeddings: above 1 / topn, `b` is nearer than an arbitrary one of them.

        Raises:
            ValueError: `a` has no other word near it.
        """
        near = self.most_similar(a, topn=topn)
        if not near:
            raise ValueError(f"a={a!r} is the only word, so that none is near it")
        return self.similarity(a, b) / sum(cosine for _, cosine in near)

    def mean_vector(
        self,
        words: str | NDArray[Any] | Sequence[str | NDArray[Any]],
        weights: ArrayLike | None = None,
        pre_normalize: bool = True,
        post_normalize: bool = False,
        ignore_missing: bool = True,
    ) -> NDArray[Any]:
        """Return the weighted mean of some vectors.

        Args:
            words: list of words and of vectors.
            weights: as many numbers, 1 by default; the sum is divided by that of their absolute
                values.
            pre_normalize: whether the words' vectors are scaled to length 1 first, but not the
                vectors among `words`.
            post_normalize: whether the mean is.
            ignore_missing: whether unknown words are left out, rather than an error.

        Returns:
            Array (size,) in the dtype of the vectors.

        Raises:
            ValueError: there is no word, or not a weight for each.
            KeyError: no word is known, or one is unknown and `ignore_missing=False`.

        Example:
            >>> import numpy as np
            >>> from fastkeras.word2vec.vectors import Vectors
            >>> vectors = Vectors(["cat", "dog"], np.array([[1, 0], [0, 3.0]]))
            >>> vectors.mean_vector(["cat", "dog"]), vectors.mean_vector(["dog"], [-2])
            (array([0.5, 0.5]), array([ 0., -1.]))
        """
        words = _listed(words)
        if not words:
            raise ValueError("words is empty; it must have a word at least")
        weights = np.ones(len(words)) if weights is None else np.asarray(weights, np.float64)
        if weights.shape != (len(words),) or not np.isfinite(weights).all():
            raise ValueError(
                f"weights has shape {weights.shape}; it must be a finite number for each of "
                f"{len(words)} words"
            )
        total, mean, found = 0.0, np.zeros(self.size), False
        for word, weight in zip(words, weights, strict=True):
            named = isinstance(word, str)
            if named and ignore_missing and not self._has_vector(word):
                continue
            vector, found = self._vector(word), True
            mean += weight * (unit_rows(vector[None])[0] if named and pre_normalize else vector)
            total += abs(weight)
        if not found:
            raise KeyError(f"words has no known word: {words[:5]!r}")
        mean = mean / total if total else mean
        return (unit_rows(mean[None])[0] if post_normalize else mean).astype(self.matrix.dtype)

    def n_similarity(self, words: Sequence[str], others: Sequence[str]) -> float:
        """Return the cosine of the mean vectors of two lists of words, which keep their lengths.

        Example:
            >>> import numpy as np
            >>> from fastkeras.word2vec.vectors import Vectors
            >>> vectors = Vectors(["cat", "dog", "sea"], np.array([[1, 0], [1, 2], [2, 2.0]]))
            >>> round(vectors.n_similarity(["cat", "dog"], ["sea"]), 6)
            1.0
        """
        means = [self.mean_vector(each, pre_normalize=False) for each in (words, others)]
        a, b = unit_rows(np.stack(means).astype(np.float64))
        return float(a @ b)

    def doesnt_match(self, words: Sequence[str]) -> str:
        """Return the word farthest from the mean of all, their vectors scaled to length 1.

        Raises:
            KeyError: a word has no vector.
            ValueError: `words` is empty.
        """
        words = list(words)
        if not words:
            raise ValueError("words is empty; it must have a word at least")
        unit = unit_rows(self[words].astype(np.float64))
        return words[int(np.argmin(unit @ unit.mean(0)))]

    def nearest(
        self,
        queries: ArrayLike,
        topn: int = 10,
        excluded: Sequence[Sequence[int]] | None = None,
        restrict_vocab: int | None = None,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the rows with the highest cosines, for many vectors at once.

        Some thousand rows are multiplied with some hundred queries at a time, and only the best are
        kept; the vectors are not copied.

        Args:
            queries: array of shape (queries, size).
            topn: how many rows for each, at least 1.
            excluded: for each query, the rows to leave out.
            restrict_vocab: search only the first so many words; None searches all.

        Returns:
            `(rows, cosines)`: arrays of shape (queries, topn), or fewer columns if there are fewer
            words, the nearest first. If too few rows are left, the remaining cosines are −inf.

        Raises:
            ValueError: a query has another size, or is not finite.
        """
        integer("topn", topn, 1, None)
        if restrict_vocab is not None:
            integer("restrict_vocab", restrict_vocab, 1, None)
        matrix = self.matrix[:restrict_vocab]
        unit = unit_rows(self._checked(queries)).astype(self.norms.dtype)
        return search.nearest(matrix, self.norms, unit, min(topn, len(matrix)), excluded)

    def _checked(self, queries: ArrayLike) -> NDArray[Any]:
        queries = np.asarray(queries)
        if queries.ndim != 2 or queries.shape[1] != self.size:
            raise ValueError(
                f"queries has shape {queries.shape}; it must be (queries, {self.size})"
            )
        finite = np.isfinite(queries).all(1)
        if not finite.all():
            raise ValueError(f"queries: row {int(finite.argmin())} has nan or inf")
        return queries

    def _cosines(self, unit, restrict_vocab=None):
        return search.cosines(self.matrix[:restrict_vocab], self.norms, unit)

    def _named(self, rows, scores):
        pairs = zip(rows.tolist(), scores.tolist(), strict=True)
        return [(self.words[row], score) for row, score in pairs]

    def _rows_of(self, terms):
        return [self.index[term] for term in terms if isinstance(term, str) and term in self.index]

    def _vector(self, term):
        if isinstance(term, str):
            return np.asarray(self[term], np.float64)
        vector = np.asarray(term, np.float64)
        if vector.shape != (self.size,):
            raise ValueError(f"a vector has shape {vector.shape}; it must be ({self.size},)")
        if not np.isfinite(vector).all():
            raise ValueError("a vector has nan or inf; all its numbers must be finite")
        return vector


def _terms(positive, negative):
    positive, negative = _listed(positive), _listed(negative)
    if not positive and not negative:
        raise ValueError("positive and negative are both empty; one must have a word")
    return positive, negative


def _listed(terms):
    if isinstance(terms, str) or (isinstance(terms, np.ndarray) and terms.ndim == 1):
        return [terms]
    return list(terms)
