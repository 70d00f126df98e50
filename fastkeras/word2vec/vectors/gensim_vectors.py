"""Vectors to gensim's objects, and back; and gensim's own files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras.word2vec.arguments import file_path, instance, shown
from fastkeras.word2vec.subwords import bags_of
from fastkeras.word2vec.vectors.subword_vectors import SubwordVectors
from fastkeras.word2vec.vectors.vectors import Vectors

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import FilePath


def to_gensim(vectors: Vectors) -> Any:
    """Return a copy of `vectors` as gensim's `KeyedVectors` or `FastTextKeyedVectors`.

    The copy of `SubwordVectors` has a row for every bucket, zeros if it was never trained. gensim
    includes these rows in the mean of an unknown word, so there its vector has the same direction
    but is shorter.

    Raises:
        ImportError: gensim is not installed.
        TypeError: `vectors` are no `Vectors`.

    Example:
        >>> from fastkeras.word2vec import Vectors
        >>> vectors = Vectors(["cat", "dog"], np.eye(2))
        >>> to_gensim(vectors).most_similar("cat")  # doctest: +SKIP
        [('dog', 0.0)]
    """
    dtype = instance("vectors", vectors, Vectors).matrix.dtype
    try:
        from gensim.models import KeyedVectors
        from gensim.models.fasttext import FastTextKeyedVectors
    except ImportError:
        raise ImportError("to_gensim makes objects of gensim: pip install gensim") from None
    if not isinstance(vectors, SubwordVectors):
        keyed = KeyedVectors(vectors.size, dtype=dtype)
        keyed.add_vectors(vectors.words, np.asarray(vectors.matrix))
        return _with_counts(keyed, vectors)
    lengths = vectors.min_n, vectors.max_n
    keyed = FastTextKeyedVectors(vectors.size, *lengths, vectors.num_buckets, dtype=dtype)
    keyed.add_vectors(vectors.words, np.asarray(vectors.matrix))
    keyed.vectors_vocab = np.array(vectors.word_matrix)
    keyed.vectors_ngrams = np.zeros((vectors.num_buckets, vectors.size), dtype)
    keyed.vectors_ngrams[vectors.buckets] = np.asarray(vectors.bucket_matrix)
    keyed.recalc_char_ngram_buckets()
    return _with_counts(keyed, vectors)


def from_gensim(keyed: Any) -> Vectors:
    """Return gensim's vectors as `Vectors`; only those of FastText are copied.

    Args:
        keyed: `KeyedVectors` or `FastTextKeyedVectors`, such as the `wv` of a model.

    Raises:
        TypeError: `keyed` is something else.

    Example:
        >>> from gensim.models import KeyedVectors  # doctest: +SKIP
        >>> keyed = KeyedVectors.load("vectors.kv")  # doctest: +SKIP
        >>> from_gensim(keyed).save("vectors.bin")  # doctest: +SKIP
    """
    if not (hasattr(keyed, "index_to_key") and hasattr(keyed, "expandos")):
        raise TypeError(
            f"keyed={shown(keyed)} must be KeyedVectors of gensim, such as the `wv` of a model"
        )
    counts = keyed.expandos.get("count")
    if not hasattr(keyed, "vectors_ngrams"):
        return Vectors(keyed.index_to_key, keyed.vectors, counts)
    lengths = keyed.bucket, keyed.min_n, keyed.max_n
    bags = bags_of(keyed.index_to_key, *lengths)
    matrix = np.concatenate([keyed.vectors_vocab, keyed.vectors_ngrams[bags.buckets]])
    return SubwordVectors(keyed.index_to_key, matrix, bags, *lengths, counts)


def _with_counts(keyed, vectors):
    if vectors.counts is not None:
        keyed.expandos["count"] = vectors.counts.copy()
    return keyed


def load_gensim(path: FilePath) -> Vectors:
    """Read what gensim's `save` has written: `KeyedVectors`, or a model, whose vectors are taken.

    gensim reads it, and so has to be installed. Its files are pickles, which run code when they are
    read: read only those that you trust.

    Args:
        path: the file that `save` got; those beside it are found by gensim.

    Returns:
        `Vectors`, or `SubwordVectors` of FastText.

    Raises:
        ImportError: gensim is not installed.
        ValueError: the file is none of gensim's, or has no vectors.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "vectors.kv")
        >>> to_gensim(Vectors(["cat"], np.ones((1, 2)))).save(path)
        >>> load_gensim(path).words
        ['cat']
    """
    try:
        from gensim.utils import SaveLoad
    except ImportError:
        raise ImportError(
            f"{path} is read by gensim, which is not installed: pip install gensim"
        ) from None
    import pickle

    try:
        loaded = SaveLoad.load(str(file_path("path", path)))
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError) as error:
        raise ValueError(f"{path} is no file of gensim's `save`: {error}") from error
    keyed = getattr(loaded, "wv", loaded)
    if not hasattr(keyed, "index_to_key"):
        raise ValueError(
            f"{path} holds a {type(loaded).__name__} of gensim, which has no vectors of words"
        )
    return from_gensim(keyed)
