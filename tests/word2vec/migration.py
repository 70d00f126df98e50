"""How the two sides of a row of docs/from_gensim_and_fasttext.md are compared."""

import numpy as np
import pytest

from fastkeras.word2vec import Doc2Vec, Vectors, Word2Vec
from fastkeras.word2vec.phrases import Phrases

END_OF_LINE = "</s>"  # a word of fastText's own


def assert_same(left, right, row):
    """What two expressions return; None of a statement, and models, are compared elsewhere."""
    if right is None or isinstance(right, Word2Vec):
        return
    if isinstance(left, bool | str | int | np.integer | dict):
        assert left == right, row
    elif isinstance(left, float | np.floating):
        assert left == pytest.approx(right, rel=1e-4, abs=1e-6), row
    elif isinstance(left, np.ndarray):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5, err_msg=str(row))
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), row
        if isinstance(left, tuple) and isinstance(left[0], float):  # of fastText: score, word
            left = left[::-1]
        for a, b in zip(left, right, strict=True):
            assert_same(a, b, row)
    else:
        pytest.fail(f"{row}: {type(left).__name__} and {type(right).__name__} are not compared")


def assert_alike(left, right, row):
    """What two statements made: models learn by random numbers of their own."""
    if isinstance(right, Word2Vec | Doc2Vec):
        assert words_of(left) == {*right.vocabulary.words}, row
        size = left.vector_size if hasattr(left, "wv") else left.get_dimension()
        assert size == right.config["vector_size"], row
        if isinstance(right, Doc2Vec):
            assert left.dv.index_to_key == right.documents, row
    elif isinstance(right, Vectors):
        assert words_of(left) == {*right.words}, row
    elif isinstance(right, Phrases):
        assert {*left.export_phrases()} == {"_".join(phrase) for phrase in right.scores}, row
    elif isinstance(right, float):  # a loss: there the sum, here a mean
        assert 0 < right < np.inf and 0 < left < np.inf, row
    elif row[0].startswith("scores = tree.score"):  # of different trees
        assert left.shape == right.shape and (left < 0).all() and (right < 0).all(), row
    else:
        assert_same(left, right, row)


def words_of(model):
    """The words of a model of gensim or fastText, or of what has them itself."""
    if hasattr(model, "get_words"):
        return {*model.get_words()} - {END_OF_LINE}
    return {*getattr(model, "wv", model).index_to_key}


def assert_same_vectors(left, right, row):
    """The words, vectors and counts of gensim's `KeyedVectors`, or of `Vectors`, and `Vectors`."""
    assert [*left.index_to_key] == right.words, row
    vectors = left.matrix if isinstance(left, Vectors) else left.vectors
    np.testing.assert_allclose(vectors, right.matrix, rtol=1e-6, atol=1e-7, err_msg=str(row))
    if right.counts is not None and not isinstance(left, Vectors):
        counts = left.expandos["count"].tolist()  # gensim has none of words that were added
        assert counts == right.counts[: len(counts)].tolist(), row
