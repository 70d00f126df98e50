"""Two spaces of vectors made one, so that words of both can be compared: languages, times, runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from fastkeras.word2vec.arguments import flag, instance, shown
from fastkeras.word2vec.vectors.search import unit_rows
from fastkeras.word2vec.vectors.vectors import Vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 1 << 14  # multiplied at a time


def translation(
    source: Vectors,
    target: Vectors,
    pairs: Iterable[tuple[str, str]] | None = None,
    orthogonal: bool = True,
) -> NDArray[np.float64]:
    """Return the matrix W with which the vectors of `source`, times W, are near those of `target`.

    With X and Y the vectors of the pairs, each scaled to length 1, W minimizes ‖XW − Y‖. The
    orthogonal one (Schönemann 1966; Xing et al. 2015; Smith et al. 2017, arXiv 1702.03859) is UVᵀ
    of the singular value decomposition XᵀY = USVᵀ, and leaves all angles within `source` as they
    are. The other one (Mikolov et al. 2013, arXiv 1309.4168) is that of least squares, as gensim's
    `TranslationMatrix` has it.

    Args:
        source, target: `Vectors`.
        pairs: a word of `source` and its translation in `target` each; None takes all words that
            both have, as for two trainings on texts of one language.
        orthogonal: whether W has to be orthogonal; then both sizes must be equal.

    Returns:
        Array (size of source, size of target).

    Raises:
        KeyError: a word is unknown.
        TypeError: `source` or `target` are no `Vectors`, or a pair is none of two words.
        ValueError: there is no pair, a vector is not finite, or the sizes differ and `orthogonal`
            is true.

    Example:
        >>> import numpy as np
        >>> from fastkeras.word2vec import Vectors
        >>> turn = np.array([[0, 1], [-1, 0.0]])
        >>> matrix = np.array([[1, 0], [1, 2.0]])
        >>> english = Vectors(["cat", "sea"], matrix)
        >>> german = Vectors(["Katze", "See"], matrix @ turn)
        >>> found = translation(english, german, [("cat", "Katze"), ("sea", "See")])
        >>> np.allclose(found, turn)
        True
    """
    instance("source", source, Vectors), instance("target", target, Vectors)
    orthogonal = flag("orthogonal", orthogonal)
    chosen = [(w, w) for w in source if w in target] if pairs is None else _pairs(pairs)
    if not chosen:
        raise ValueError(
            "source and target have no word in common: pass pairs of words"
            if pairs is None
            else "pairs is empty; it must have a pair of words at least"
        )
    if orthogonal and source.size != target.size:
        raise ValueError(
            f"source has vectors of size {source.size}, target {target.size}; an orthogonal matrix "
            "needs equal ones: pass orthogonal=False"
        )
    from_words, to_words = zip(*chosen, strict=True)
    x = _unit_rows("source", source, from_words)
    y = _unit_rows("target", target, to_words)
    if not orthogonal:
        return np.linalg.lstsq(x, y, None)[0]
    left, _, right = np.linalg.svd(x.T @ y)
    return left @ right


def _pairs(pairs):
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        raise TypeError(f"pairs={shown(pairs)} must be a list of pairs of words")
    pairs = list(pairs)
    for pair in pairs:
        is_pair = isinstance(pair, tuple | list | np.ndarray) and len(pair) == 2
        if not (is_pair and all(isinstance(word, str) for word in pair)):
            raise TypeError(f"pairs has {shown(pair)}, which is no pair of words")
    return pairs


def _unit_rows(name, vectors, words):
    rows = unit_rows(vectors[words].astype(np.float64))
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        word = words[int(finite.argmin())]
        raise ValueError(f"{name}: the vector of {word!r} has nan or inf")
    return rows


def align(
    source: Vectors,
    target: Vectors,
    pairs: Iterable[tuple[str, str]] | None = None,
    orthogonal: bool = True,
) -> Vectors:
    """Return `source` in the space of `target`, multiplied by their `translation`.

    Args:
        source, target, pairs, orthogonal: as in `translation`.

    Returns:
        `Vectors` of the words of `source`; n-grams of `SubwordVectors` are left behind.

    Example:
        >>> import numpy as np
        >>> from fastkeras.word2vec import Vectors
        >>> old, new = Vectors(["cat", "sea"], np.eye(2)), Vectors(["cat", "sea"], -np.eye(2))
        >>> align(old, new)["cat"]
        array([-1.,  0.])
    """
    matrix = translation(source, target, pairs, orthogonal)
    turned = np.empty((len(source), target.size), source.matrix.dtype)
    for begin in range(0, len(source), ROWS):
        turned[begin : begin + ROWS] = source.matrix[begin : begin + ROWS].astype("f8") @ matrix
    return Vectors(source.words, turned, source.counts)
