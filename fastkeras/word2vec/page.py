"""A page for browsers: a map of the words, and for each the words nearest to it."""

from __future__ import annotations

import html
import json
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from fastkeras._files import replacing
from fastkeras.word2vec.arguments import choice, instance, integer, string, strings
from fastkeras.word2vec.projection import principal_components
from fastkeras.word2vec.vectors.search import unit_rows
from fastkeras.word2vec.vectors.vectors import Vectors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from fastkeras.typing import FilePath

LAYOUTS = ("pca", "tsne")


def write_page(
    vectors: Vectors,
    path: FilePath,
    words: int | Sequence[str] = 1000,
    topn: int = 12,
    layout: Literal["pca", "tsne"] = "pca",
    title: str = "Word vectors",
) -> None:
    """Write one HTML file that needs no other: a map to move and zoom, a search, and neighbors.

    Args:
        vectors: `Vectors`.
        path: of the file.
        words: how many of the first words are shown, or a list of words; at least 3.
        topn: how many neighbors each has; they are found among all vectors, as by `most_similar`.
        layout: `"pca"`, the two directions in which the shown vectors (scaled to length 1) vary
            most; or `"tsne"`, where neighbors stay together and distances between groups mean
            little (van der Maaten & Hinton 2008; by scikit-learn; a minute for 5,000 words).
        title: of the page.

    Raises:
        ImportError: `layout="tsne"` without scikit-learn.
        KeyError: a word has no vector.
        ValueError: fewer than 3 words, or an argument out of its range.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from fastkeras.word2vec.vectors import Vectors
        >>> vectors = Vectors(["cat", "dog", "car"], np.float32([[1, 1], [1, 0.9], [-1, 0.8]]))
        >>> write_page(vectors, tempfile.mkdtemp() + "/animals.html", topn=2)
    """
    choice("layout", layout, LAYOUTS)
    integer("topn", topn, 1, None)
    instance("vectors", vectors, Vectors), string("title", title)
    if isinstance(words, (int, np.integer)):
        integer("words", words, 3, None)
        shown = vectors.words[:words]
    else:
        shown = strings("words", words)
    if len(shown) < 3:
        raise ValueError(f"words has {len(shown)} words; a map needs 3 at least")
    rows = [vectors.row(word) for word in shown]
    matrix = vectors.matrix[rows].astype(np.float64)
    found, cosines = vectors.nearest(matrix, topn, [[row] for row in rows])
    place_of = {row: place for place, row in enumerate(rows)}
    data = {
        "words": shown,
        "points": _points(unit_rows(matrix), layout).round(4).tolist(),
        "neighbors": [
            [place_of.get(row, vectors.words[row]) for row in _finite(near, of)]
            for near, of in zip(found.tolist(), cosines, strict=True)
        ],
        "cosines": [[round(float(c), 4) for c in _finite(of, of)] for of in cosines],
    }
    template = resources.files("fastkeras.word2vec").joinpath("page.html").read_text("utf-8")
    page = Template(template).substitute(
        title=html.escape(title),
        about=f"{len(shown):,} of {len(vectors):,} words, vectors of size {vectors.size}. "
        "Drag and zoom the map; click a word, or look for one. Underlined neighbors are on it.",
        # Inside of a script "<" could end it.
        data=json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
    )
    with replacing(path, "w", encoding="utf-8") as file:
        file.write(page)


def _points(unit, layout):
    if layout == "pca":
        return principal_components(unit)[0]
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise ImportError(
            'layout="tsne" is computed by scikit-learn: pip install scikit-learn'
        ) from None
    perplexity = min(30, (len(unit) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(unit)


def _finite(values, cosines):
    return [value for value, cosine in zip(values, cosines, strict=True) if np.isfinite(cosine)]
