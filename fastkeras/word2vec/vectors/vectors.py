"""Words and their vectors, and which are near each other."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import numpy as np

from fastkeras._files import rereadable
from fastkeras.word2vec.arguments import (
    file_path,
    flag,
    floats,
    shown,
    string,
    strings,
    whole_numbers,
)
from fastkeras.word2vec.vectors import files, search
from fastkeras.word2vec.vectors.queries import Queries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from fastkeras.typing import ArrayLike, FilePath

NEAR_SPELLINGS_AMONG = 50_000  # first words; all of a large vocabulary would take too long


class Vectors(Queries):
    """A vector for each word.

    Args:
        words: sequence of different strings, the most frequent first if they come from training.
        matrix: float array of shape (words, size); it is kept, not copied, and may be mapped from a
            file.
        counts: as many ints, how often the corpus has each word, copied; None if that is not known.

    Attributes:
        words: list of strings.
        matrix: the array.
        index: dict, the row of each word.
        counts: int64 array, or None.

    `vectors["cat"]` is a word's vector, `vectors[["cat", "dog"]]` an array with a row for each;
    `"cat" in vectors`, `len(vectors)` and iteration are about the words.

    Raises:
        ValueError: a word occurs twice, or there is not a row or a count for each word.
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

    def __init__(
        self, words: Iterable[str], matrix: NDArray[Any], counts: ArrayLike | None = None
    ) -> None:
        self.words: list[str] = strings("words", words)
        self.matrix: Any = matrix if hasattr(matrix, "codes") else np.asanyarray(matrix)
        self.index: dict[str, int] = {word: i for i, word in enumerate(self.words)}
        self._norms: NDArray[Any] | None = None
        if self.matrix.ndim != 2 or len(self.matrix) != len(self.words):
            raise ValueError(
                f"matrix has shape {self.matrix.shape}; it must have 2 dimensions and a row for "
                f"each of {len(self.words)} words"
            )
        if not np.issubdtype(self.matrix.dtype, np.floating):
            raise ValueError(f"matrix has dtype {self.matrix.dtype}; it must be floating-point")
        if len(self.index) < len(self.words):
            raise ValueError(f"words has {_repeated(self.words)!r} twice")
        self.counts: NDArray[np.int64] | None = None
        if counts is not None:
            self.counts = np.array(whole_numbers("counts", counts))  # a copy: ours can be changed
            if self.counts.shape != (len(self.words),):
                raise ValueError(
                    f"counts has shape {self.counts.shape}; it must be ({len(self.words)},)"
                )

    def __len__(self) -> int:
        return len(self.words)

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and word in self.index

    def __getitem__(self, words: str | Sequence[str]) -> NDArray[Any]:
        if isinstance(words, str):
            return self.matrix[self.row(words)]
        return self.matrix[[self.row(word) for word in named(words)]]

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
        except (KeyError, TypeError):  # the latter of a list, for instance
            raise KeyError(self._unknown(string("word", word))) from None

    @property
    def index_to_key(self) -> list[str]:
        """The words, under the name that gensim has for them."""
        return self.words

    @property
    def key_to_index(self) -> dict[str, int]:
        """The row of each word, under the name that gensim has for it."""
        return self.index

    def __setitem__(self, words: str | Sequence[str], vectors: ArrayLike) -> None:
        """Set the vector of a word, or those of many; unknown words are added."""
        self.add_vectors(words, vectors, replace=True)

    def add_vectors(
        self,
        words: str | Sequence[str],
        vectors: ArrayLike,
        counts: ArrayLike | None = None,
        replace: bool = False,
    ) -> None:
        """Add words with their vectors after the others.

        Args:
            words: list of strings; or one of them, with a vector (size,).
            vectors: array-like (words, size); it is copied, in the dtype of the matrix.
            counts: as many ints, if the vectors here have `counts`; 0 by default.
            replace: whether words that are here already get the new vectors (in place, if the array
                can be written to, which a mapped one cannot); otherwise they keep theirs.

        Raises:
            ValueError: a word occurs twice, there is not a vector for each, or one is not finite.

        Example:
            >>> import numpy as np
            >>> from fastkeras.word2vec.vectors import Vectors
            >>> vectors = Vectors(["cat"], np.zeros((1, 2)))
            >>> vectors.add_vectors(["dog", "cat"], [[1, 2], [3, 4]])
            >>> vectors["cow"] = [5, 6]
            >>> vectors.words, vectors["cat"], vectors["cow"]
            (['cat', 'dog', 'cow'], array([0., 0.]), array([5., 6.]))
        """
        rows = floats("vectors", vectors, self.matrix.dtype)
        if isinstance(words, str):
            words, rows = [words], rows[None] if rows.ndim == 1 else rows
        words = strings("words", words)
        replace = flag("replace", replace)
        counts = np.zeros(len(words), np.int64) if counts is None else counts
        counts = whole_numbers("counts", counts)
        if rows.shape != (len(words), self.size) or counts.shape != (len(words),):
            raise ValueError(
                f"vectors has shape {rows.shape} and counts {counts.shape}; {len(words)} words "
                f"need ({len(words)}, {self.size}) and ({len(words)},)"
            )
        if len({*words}) < len(words):
            raise ValueError(f"words has {_repeated(words)!r} twice")
        if not np.isfinite(rows).all():
            row = int(np.isfinite(rows).all(1).argmin())
            raise ValueError(f"vectors: that of {words[row]!r} has nan or inf")
        known = np.array([word in self.index for word in words], bool)
        if replace and known.any():
            if not (isinstance(self.matrix, np.ndarray) and self.matrix.flags.writeable):
                self.matrix = np.array(self.matrix)
            self.matrix[[self.index[word] for word in words if word in self.index]] = rows[known]
        if not known.all():
            self.matrix = np.concatenate([np.asarray(self.matrix), rows[~known]])
            if self.counts is not None:
                self.counts = np.concatenate([self.counts, counts[~known]])
            for word in words:
                if self.index.setdefault(word, len(self.words)) == len(self.words):
                    self.words.append(word)
        self._norms = None

    def vectors_for_all(self, words: Iterable[str], allow_inference: bool = True) -> Vectors:
        """Return the `Vectors` of some words, each once; unknown words are left out.

        Args:
            words: iterable of strings.
            allow_inference: whether `SubwordVectors` give vectors to words they have not seen.

        Example:
            >>> import numpy as np
            >>> from fastkeras.word2vec.vectors import Vectors
            >>> Vectors(["cat", "dog"], np.eye(2)).vectors_for_all(["dog", "cow", "dog"]).words
            ['dog']
        """
        allow_inference = flag("allow_inference", allow_inference)
        has = self._has_vector if allow_inference else self.index.__contains__
        words = strings("words", words)
        found = {word: self[word] for word in dict.fromkeys(words) if has(word)}
        matrix = np.array(list(found.values()), self.matrix.dtype).reshape(-1, self.size)
        if self.counts is None:
            return Vectors(found, matrix)
        counts = [self.counts[self.index[word]] if word in self.index else 0 for word in found]
        return Vectors(found, matrix, counts)

    def quantized(self) -> Vectors:
        """Return the vectors in 8 bits: a quarter of the memory, and of a `.npy` file.

        Cosines change by less than about 0.01. See `eight_bits.EightBitRows`. `SubwordVectors` lose
        their n-grams: unknown words have no vectors here.

        Raises:
            ValueError: a vector is not finite.

        Example:
            >>> import numpy as np
            >>> from fastkeras.word2vec.vectors import Vectors
            >>> vectors = Vectors(["cat", "dog"], np.array([[1, 0.2], [0.1, 3]])).quantized()
            >>> vectors["dog"]
            array([0.09448819, 3.        ], dtype=float32)
        """
        from fastkeras.word2vec.vectors.eight_bits import EightBitRows

        rows: Any = EightBitRows.of(self.matrix)
        return Vectors(self.words, rows, self.counts)

    @property
    def norms(self) -> NDArray[Any]:
        """The Euclidean length of each vector, computed once: array of shape (words,).

        Raises:
            ValueError: one is not finite.
        """
        if self._norms is None:
            norms = search.norms_of(self.matrix)
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
        """Read vectors in any of the formats; see `fastkeras.word2vec.vectors.files.load`.

        A model of fastText, see `fastkeras.word2vec.fasttext.load_vectors`, gives `SubwordVectors`.
        A pipe, such as `/dev/stdin`, is copied to a temporary file first.
        """
        with rereadable(file_path("path", path)) as file:
            if not files.is_of_fasttext(file):
                return Vectors(*files.load(file, limit, errors))
            from fastkeras.word2vec.fasttext.models import load_vectors

            return load_vectors(file, limit=limit, errors=errors)

    def _has_vector(self, word):
        return word in self.index

    def _unknown(self, word):
        message = f"{word!r} is none of the {len(self)} words"
        cases = [w for w in (word.lower(), word.capitalize(), word.upper()) if w in self.index]
        near = difflib.get_close_matches(word, self.words[:NEAR_SPELLINGS_AMONG], 3, 0.7)
        near = list(dict.fromkeys([*cases, *near]))[:3]
        return message + (f"; near it are {', '.join(map(repr, near))}" if near else "")


def named(words):
    """Return a list of words, whether or not they are known."""
    try:
        return strings("words", words)
    except TypeError:
        raise TypeError(
            f"words={shown(words)} must be a word or a list of words; rows by number are in "
            "`vectors.matrix`"
        ) from None


def _repeated(words):
    place = {word: i for i, word in enumerate(words)}
    return next(word for i, word in enumerate(words) if place[word] != i)
