"""Vectors of spaCy's pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras.word2vec.vectors.vectors import Vectors

if TYPE_CHECKING:
    from typing import Any


def from_spacy(source: Any) -> Vectors:
    """Return the vectors of a pipeline of spaCy.

    Args:
        source: `nlp`, its `nlp.vocab`, or the name or folder of a pipeline, which spaCy loads. The
            folder `vectors` alone has numbers in place of words; these are in `strings.json` beside
            it, so the pipeline, or its folder `vocab`, has to be there.

    Returns:
        `Vectors` of all words that have one; several words may share a row in spaCy, and have a
        copy each here. They are in the order of the rows.

    Raises:
        ImportError: a name was given, and spaCy is not installed.
        ValueError: it has no vectors, or those of subwords (floret), which spaCy alone can compute.

    Example:
        >>> from types import SimpleNamespace as Fake
        >>> table = Fake(data=np.eye(2), key2row={7: 1, 9: 0}, mode="default")
        >>> from_spacy(Fake(vectors=table, strings={7: "dog", 9: "cat"})).words
        ['cat', 'dog']
    """
    if isinstance(source, str) or hasattr(source, "__fspath__"):
        source = _loaded(source)
    vocab = getattr(source, "vocab", source)
    vectors, strings = getattr(vocab, "vectors", None), getattr(vocab, "strings", None)
    if vectors is None or strings is None:
        raise ValueError(
            f"source is a {type(source).__name__}; it must be a pipeline of spaCy or its vocab"
        )
    if str(getattr(vectors, "mode", "default")).rpartition(".")[2] == "floret":
        raise ValueError("source has vectors of the mode floret, which have no table of words")
    matrix = vectors.data if isinstance(vectors.data, np.ndarray) else vectors.data.get()  # CuPy
    rows = sorted((int(row), key) for key, row in vectors.key2row.items() if row >= 0)
    if not rows or not matrix.size:
        raise ValueError("source has no vectors of words; spaCy's pipelines _md and _lg have")
    words = [strings[key] for _, key in rows]
    return Vectors(words, matrix[[row for row, _ in rows]])


def _loaded(path):
    try:
        import spacy
    except ImportError:
        raise ImportError(
            f"source={str(path)!r} is read by spaCy, which is not installed: pip install spacy"
        ) from None
    from pathlib import Path

    if (Path(path) / "strings.json").exists():  # the folder `vocab` of a pipeline
        return spacy.vocab.Vocab().from_disk(path)
    return spacy.load(path)
