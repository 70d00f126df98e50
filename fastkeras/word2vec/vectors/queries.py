"""The questions that vectors of words answer: what is near, how near, and which does not fit."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from fastkeras.word2vec.arguments import (
    flag,
    floats,
    integer,
    shown,
    string,
    strings,
    whole_numbers,
)
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
        words = [string("a", a), string("b", b)]
        first, second = unit_rows(self[words].astype(np.float64))
        return float(first @ second)

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
        unit = unit_rows(self._vector("word", word)[None])
        if others is None:
            return 1 - self._cosines(unit)[0]
        others = strings("others", others)
        return 1 - (unit_rows(self[others].astype(np.float64)) @ unit[0] if others else np.empty(0))

    def most_similar(
        self,
        positive: str
        | NDArray[Any]
        | Sequence[str | NDArray[Any] | tuple[str | NDArray[Any], float]] = (),
        negative: str | NDArray[Any] | Sequence[str | NDArray[Any]] = (),
        topn: int = 10,
        restrict_vocab: int | None = None,
    ) -> list[tuple[str, float]]:
        """Return the words nearest to the mean of some vectors and of the negatives of others.

        Args:
            positive: word or vector, or a list of them and of pairs `(word or vector, weight)`.
            negative: word or vector, or a list of them; they enter the mean with a minus. The
                vectors of words are scaled to length 1 first, others enter as they are, as in
                gensim.
            topn: how many words to return, at least 1; fewer if there are not so many.
            restrict_vocab: search only the first so many words; None searches all.

        Returns:
            List of pairs `(word, cosine)`, the nearest first, without the words asked for.

        Raises:
            KeyError: a word has no vector.
            ValueError: both are empty, all weights are 0, or a vector has another size or is not
                finite.
            TypeError: one is neither a word nor a vector.
        """
        positive, negative = _terms(positive, negative)
        weighted = [_with_weight(term) for term in positive]
        rows = [self._vector("positive", term, unit=True) for term, _ in weighted]
        rows += [self._vector("negative", term, unit=True) for term in negative]
        weights = np.array([weight for _, weight in weighted] + [-1.0] * len(negative))
        total = np.abs(weights).sum()
        if not 0 < total < np.inf:
            raise ValueError(f"positive has weights whose sum is {total}; they must be finite")
        query = weights @ np.stack(rows) / total
        excluded = self._rows_of([term for term, _ in weighted] + negative)
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
        rows = [self._vector("positive", term) for term in positive]
        rows += [self._vector("negative", term) for term in negative]
        unit = unit_rows(np.stack(rows))
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
        a, b, c = string("a", a), string("b", b), string("c", c)
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
        a, b = string("a", a), string("b", b)
        cosines = self._cosines(unit_rows(self._vector("a", a)[None]))[0]
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
            ValueError: `a` has no other word near it, or the cosines sum to 0.
        """
        near = self.most_similar(string("a", a), topn=topn)
        if not near:
            raise ValueError(f"a={a!r} is the only word, so that none is near it")
        total = sum(cosine for _, cosine in near)
        if total == 0:
            raise ValueError(
                f"a={a!r}: the cosines of the {len(near)} words nearest to it sum to 0, by which "
                "nothing can be divided"
            )
        return self.similarity(a, b) / total

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
        pre_normalize = flag("pre_normalize", pre_normalize)
        post_normalize = flag("post_normalize", post_normalize)
        words = _listed("words", words)
        if not words:
            raise ValueError("words is empty; it must have a word at least")
        weights = np.ones(len(words)) if weights is None else floats("weights", weights)
        if weights.shape != (len(words),) or not np.isfinite(weights).all():
            raise ValueError(
                f"weights has shape {weights.shape}; it must be a finite number for each of "
                f"{len(words)} words"
            )
        total, mean, found = 0.0, np.zeros(self.size), False
        ignore_missing = flag("ignore_missing", ignore_missing)
        for word, weight in zip(words, weights, strict=True):
            if isinstance(word, str) and ignore_missing and not self._has_vector(word):
                continue
            mean += weight * self._vector("words", word, pre_normalize)
            total, found = total + abs(weight), True
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
        if not strings("others", others):
            raise ValueError("others is empty; it must have a word at least")
        lists = strings("words", words), others
        means = [self.mean_vector(each, pre_normalize=False) for each in lists]
        a, b = unit_rows(np.stack(means).astype(np.float64))
        return float(a @ b)

    def doesnt_match(self, words: Sequence[str]) -> str:
        """Return the word farthest from the mean of all, their vectors scaled to length 1.

        Raises:
            KeyError: a word has no vector.
            ValueError: `words` is empty.
        """
        words = strings("words", words)
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
            ValueError: a query has another size, or is not finite; or `excluded` has not a list of
                rows for each.
        """
        integer("topn", topn, 1, None)
        if restrict_vocab is not None:
            integer("restrict_vocab", restrict_vocab, 1, None)
        matrix = self.matrix[:restrict_vocab]
        unit = unit_rows(self._checked(queries)).astype(self.norms.dtype)
        excluded = checked_rows(excluded, len(unit))
        return search.nearest(matrix, self.norms, unit, min(topn, len(matrix)), excluded)

    def _checked(self, queries: ArrayLike) -> NDArray[Any]:
        queries = floats("queries", queries, None)
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

    def _vector(self, name, term, unit=False):
        """Return a word's vector, of length 1 if `unit`, or a vector that was given, as it is."""
        if isinstance(term, str):
            vector = np.asarray(self[term], np.float64)
            return unit_rows(vector) if unit else vector
        if not hasattr(term, "__len__"):
            raise TypeError(f"{name} has {shown(term)}, which is neither a word nor a vector")
        vector = floats(name, term)
        if vector.shape != (self.size,):
            raise ValueError(
                f"{name}: a vector has shape {vector.shape}; it must be ({self.size},)"
            )
        if not np.isfinite(vector).all():
            raise ValueError(f"{name}: a vector has nan or inf; all its numbers must be finite")
        return vector


def checked_rows(excluded, number):
    """Return the rows that each of some queries leaves out, checked; None stays."""
    if excluded is None or (
        isinstance(excluded, np.ndarray) and excluded.dtype.kind in "iu" and excluded.ndim == 2
    ):
        rows = excluded
    elif isinstance(excluded, Iterable):
        rows = [whole_numbers("excluded", of_query).ravel() for of_query in excluded]
    else:
        raise TypeError(f"excluded={shown(excluded)} must be a list of rows for each query")
    if rows is not None and len(rows) != number:
        raise ValueError(f"excluded has rows of {len(rows)} queries; there are {number}")
    return rows


def _with_weight(term):
    """Return (word or vector, weight) of one of them, or of such a pair."""
    is_pair = isinstance(term, tuple) and len(term) == 2 and isinstance(term[1], Real)
    return term if is_pair and not isinstance(term[0], Real) else (term, 1.0)


def _terms(positive, negative):
    positive, negative = _listed("positive", positive), _listed("negative", negative)
    if not positive and not negative:
        raise ValueError("positive and negative are both empty; one must have a word")
    return positive, negative


def _listed(name, terms):
    """Return a list of words and vectors; an array of one dimension is a vector if not of words."""
    is_array = isinstance(terms, np.ndarray) and terms.ndim == 1 and terms.dtype.kind not in "OUT"
    if isinstance(terms, str) or is_array:
        return [terms]
    if isinstance(terms, bytes) or not isinstance(terms, Iterable):
        raise TypeError(
            f"{name}={shown(terms)} must be a word, a vector, or a list of words and vectors"
        )
    return list(terms)
