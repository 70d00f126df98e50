"""Words and their vectors, and which are near each other."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import numpy as np

from fastkeras.word2vec.arguments import integer
from fastkeras.word2vec.vectors import files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from fastkeras.typing import ArrayLike, FilePath

ROWS, QUERIES = 1 << 14, 256  # of one matrix product: 16 MiB of scores
GROUP = 64  # scores, of which `_floor` looks only at the highest
NEAR_SPELLINGS_AMONG = 50_000  # first words; all of a large vocabulary would take too long


class Vectors:
    """A vector for each word.

    Args:
        words: sequence of different strings, the most frequent first if they come from training.
        matrix: float array of shape (words, size); it is kept, not copied, and may be mapped from a
            file.

    Attributes:
        words: list of strings.
        matrix: the array.
        index: dict, the row of each word.

    `vectors["cat"]` is a word's vector, `vectors[["cat", "dog"]]` an array with a row for each;
    `"cat" in vectors`, `len(vectors)` and iteration are about the words.

    Raises:
        ValueError: a word occurs twice, or `matrix` does not have a row for each word.
        KeyError: from any function that gets an unknown word; it suggests words of like spelling.

    Example:
        >>> import numpy as np
        >>> from fastkeras.word2vec.vectors import Vectors
        >>> vectors = Vectors(["cat", "dog", "car"], np.float32([[1, 1], [1, 0.9], [-1, 0.8]]))
        >>> vectors.most_similar("cat", topn=1)[0][0]
        'dog'
        >>> vectors.doesnt_match(["cat", "dog", "car"])
        'car'
    """

    def __init__(self, words: Sequence[str], matrix: NDArray[Any]) -> None:
        self.words = list(words)
        self.matrix = np.asanyarray(matrix)
        self.index = {word: i for i, word in enumerate(self.words)}
        self._norms: NDArray[Any] | None = None
        if self.matrix.ndim != 2 or len(self.matrix) != len(self.words):
            raise ValueError(
                f"matrix has shape {self.matrix.shape}; it must have 2 dimensions and a row for "
                f"each of {len(self.words)} words"
            )
        if not np.issubdtype(self.matrix.dtype, np.floating):
            raise ValueError(f"matrix has dtype {self.matrix.dtype}; it must be floating-point")
        if len(self.index) < len(self.words):
            twice = next(word for i, word in enumerate(self.words) if self.index[word] != i)
            raise ValueError(f"words has {twice!r} twice")

    def __len__(self) -> int:
        return len(self.words)

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.index

    def __getitem__(self, words: str | Sequence[str]) -> NDArray[Any]:
        if isinstance(words, str):
            return self.matrix[self.row(words)]
        return self.matrix[[self.row(word) for word in words]]

    def __repr__(self) -> str:
        return f"<Vectors of {len(self)} words, size {self.size}, {self.matrix.dtype}>"

    @property
    def size(self) -> int:
        """How many numbers a vector has."""
        return self.matrix.shape[1]

    def row(self, word: str) -> int:
        """Return the word's row; KeyError suggests words of like spelling."""
        try:
            return self.index[word]
        except KeyError:
            raise KeyError(self._unknown(word)) from None

    def similarity(self, a: str, b: str) -> float:
        """Return the cosine of the angle between two words' vectors, 0 if one is zero."""
        a, b = unit_rows(self[[a, b]].astype(np.float64))
        return float(a @ b)

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
        positive, negative = _listed(positive), _listed(negative)
        if not positive and not negative:
            raise ValueError("positive and negative are both empty; one must have a word")
        terms = np.stack([self._vector(term) for term in [*positive, *negative]])
        signs = np.repeat([1.0, -1.0], [len(positive), len(negative)])
        query = signs @ unit_rows(terms) / len(signs)
        given = [term for term in [*positive, *negative] if isinstance(term, str)]
        excluded = [self.index[term] for term in given if term in self.index]
        rows, cosines = self.nearest(query[None], topn, [excluded], restrict_vocab)
        found = np.isfinite(cosines[0])
        return [
            (self.words[row], float(cosine))
            for row, cosine in zip(rows[0][found], cosines[0][found], strict=True)
        ]

    def analogy(self, a: str, b: str, c: str, topn: int = 10) -> list[tuple[str, float]]:
        """Return the words that are to `c` what `b` is to `a`: `analogy("man", "king", "woman")`.

        Example:
            >>> import numpy as np
            >>> words = ["man", "woman", "king", "queen", "apple"]
            >>> matrix = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1], [-1, -1, 0.0]])
            >>> Vectors(words, matrix).analogy("man", "king", "woman", topn=1)[0][0]
            'queen'
        """
        return self.most_similar([b, c], [a], topn)

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

        Some thousand rows are multiplied with some hundred queries at a time; the vectors are not
        copied.

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
        queries = np.asarray(queries)
        if queries.ndim != 2 or queries.shape[1] != self.size:
            raise ValueError(
                f"queries has shape {queries.shape}; it must be (queries, {self.size})"
            )
        finite = np.isfinite(queries).all(1)
        if not finite.all():
            raise ValueError(f"queries: row {int(finite.argmin())} has nan or inf")
        matrix = self.matrix[:restrict_vocab]
        topn = min(topn, len(matrix))
        rows = np.empty((len(queries), topn), np.int64)
        cosines = np.empty((len(queries), topn), np.result_type(self.matrix, np.float32))
        unit = unit_rows(queries).astype(cosines.dtype)
        for begin in range(0, len(queries), QUERIES):
            part = slice(begin, begin + QUERIES)
            rows[part], cosines[part] = self._nearest(
                matrix, unit[part], topn, None if excluded is None else excluded[part]
            )
        return rows, cosines

    def _nearest(self, matrix, unit, topn, excluded):
        best = np.full((len(unit), 0), -np.inf, unit.dtype)
        best_rows = np.empty(best.shape, np.int64)
        norms = self.norms
        for begin in range(0, len(matrix), ROWS):
            block = matrix[begin : begin + ROWS].astype(unit.dtype, copy=False)
            scores = unit @ block.T
            scores *= _inverse(norms[begin : begin + len(block)])
            for query, rows in enumerate(() if excluded is None else excluded):
                rows = np.asarray(rows, np.int64) - begin
                scores[query, rows[(rows >= 0) & (rows < len(block))]] = -np.inf
            floor = _floor(scores, topn)
            if best.shape[1] == topn:
                floor = np.maximum(floor, best[:, -1:])
            # Only the few columns that are good enough for some query need to be sorted.
            columns = np.flatnonzero((scores >= floor).any(0))
            scores = scores[:, columns]
            columns = np.broadcast_to(columns, scores.shape)
            if scores.shape[1] > topn:
                top = np.argpartition(scores, -topn)[:, -topn:]
                scores, columns = (np.take_along_axis(each, top, 1) for each in (scores, columns))
            best = np.concatenate([best, scores], 1)
            best_rows = np.concatenate([best_rows, columns + begin], 1)
            order = np.lexsort((best_rows, -best))[:, :topn]
            best = np.take_along_axis(best, order, 1)
            best_rows = np.take_along_axis(best_rows, order, 1)
        return best_rows, best

    @property
    def norms(self) -> NDArray[Any]:
        """The Euclidean length of each vector, computed once: array of shape (words,).

        Raises:
            ValueError: one is not finite.
        """
        if self._norms is None:
            dtype = np.result_type(self.matrix, np.float32)
            norms = np.empty(len(self), dtype)
            for begin in range(0, len(self), ROWS):
                block = self.matrix[begin : begin + ROWS].astype(dtype, copy=False)
                norms[begin : begin + len(block)] = np.linalg.norm(block, axis=1)
            if not np.isfinite(norms).all():  # one such row would spoil every search
                row = int(np.isfinite(norms).argmin())
                raise ValueError(
                    f"the vector of {self.words[row]!r} (row {row}) has the length {norms[row]}; "
                    "it must be finite"
                )
            self._norms = norms
        return self._norms

    def save(self, path: FilePath, format: str | None = None) -> None:
        """Write the vectors; see `fastkeras.word2vec.vectors.files.save`."""
        files.save(self.words, self.matrix, path, format)

    @classmethod
    def load(cls, path: FilePath, limit: int | None = None, errors: str = "strict") -> Vectors:
        """Read vectors in any of the formats; see `fastkeras.word2vec.vectors.files.load`."""
        return Vectors(*files.load(path, limit, errors))

    def _vector(self, term):
        if isinstance(term, str):
            return np.asarray(self[term], np.float64)
        vector = np.asarray(term, np.float64)
        if vector.shape != (self.size,):
            raise ValueError(f"a vector has shape {vector.shape}; it must be ({self.size},)")
        if not np.isfinite(vector).all():
            raise ValueError("a vector has nan or inf; all its numbers must be finite")
        return vector

    def _unknown(self, word):
        message = f"{word!r} is none of the {len(self)} words"
        if not isinstance(word, str):
            return message
        cases = [w for w in (word.lower(), word.capitalize(), word.upper()) if w in self.index]
        near = difflib.get_close_matches(word, self.words[:NEAR_SPELLINGS_AMONG], 3, 0.7)
        near = list(dict.fromkeys([*cases, *near]))[:3]
        return message + (f"; near it are {', '.join(map(repr, near))}" if near else "")


def unit_rows(matrix):
    """Return the rows scaled to length 1; rows of zeros stay."""
    return matrix * _inverse(np.linalg.norm(matrix, axis=-1, keepdims=True))


def _floor(scores, topn):
    """Return for each query a score that at least `topn` of its scores reach, or −inf."""
    groups = scores.shape[1] // GROUP
    if groups < topn:
        return np.full((len(scores), 1), -np.inf, scores.dtype)
    maxima = scores[:, : groups * GROUP].reshape(len(scores), GROUP, groups).max(1)
    return np.partition(maxima, -topn)[:, -topn, None]


def _inverse(norms):
    return 1 / np.where(norms > 0, norms, 1)


def _listed(terms):
    if isinstance(terms, str) or (isinstance(terms, np.ndarray) and terms.ndim == 1):
        return [terms]
    return list(terms)
