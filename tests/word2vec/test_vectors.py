"""Vectors of words, and which are near each other."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkeras.word2vec import Word2Vec
from fastkeras.word2vec.vectors import Vectors
from fastkeras.word2vec.vectors import search as module

WORDS = ["man", "woman", "king", "queen", "apple", "New York"]
MATRIX = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1], [-1, -1, 0], [0, 0, 0]], np.float32)


@pytest.fixture
def vectors():
    return Vectors(WORDS, MATRIX)


def plain_cosines(matrix, query):
    """Cosines by the definition, in float64, one vector at a time."""
    cosines = []
    for vector in np.asarray(matrix, np.float64):
        lengths = np.sqrt(vector @ vector) * np.sqrt(query @ query)
        cosines.append(vector @ query / lengths if lengths else 0.0)
    return np.array(cosines)


def test_access(vectors):
    assert len(vectors) == 6 and vectors.size == 3 and list(vectors) == WORDS
    assert "king" in vectors and "duke" not in vectors
    np.testing.assert_array_equal(vectors["king"], MATRIX[2])
    np.testing.assert_array_equal(vectors[["king", "man"]], MATRIX[[2, 0]])
    assert vectors["king"].base is not None  # a view


@given(
    st.integers(0, 2**32),
    st.integers(1, 70),
    st.integers(1, 40),
    st.sampled_from(["float16", "float32", "float64"]),
    st.sampled_from([None, 1, 20]),
)
def test_nearest_is_a_sort_of_the_cosines(seed, num_words, topn, dtype, restrict_vocab):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(num_words, 5)).astype(dtype)
    queries = rng.normal(size=(7, 5))
    excluded = [rng.integers(0, num_words, rng.integers(0, 4)) for _ in queries]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS", 16)
        patch.setattr(module, "QUERIES", 3)
        patch.setattr(module, "GROUP", 3)
        rows, cosines = Vectors(map(str, range(num_words)), matrix).nearest(
            queries, topn, excluded, restrict_vocab
        )
    among = min(restrict_vocab or num_words, num_words)
    assert rows.shape == cosines.shape == (7, min(topn, among))
    tolerance = 1e-14 if dtype == "float64" else 1e-6
    for query, without, of_query, found in zip(queries, excluded, rows, cosines, strict=True):
        expected = plain_cosines(matrix[:among], query)
        expected[without[without < among]] = -np.inf
        best = np.sort(expected)[::-1][: len(found)]
        np.testing.assert_allclose(found, best, rtol=0, atol=tolerance)
        np.testing.assert_allclose(expected[of_query], best, rtol=0, atol=tolerance)
        assert len(set(of_query)) == len(of_query)


def test_equal_words_come_in_their_order():
    vectors = Vectors(list("abcdefgh"), np.ones((8, 2)))
    assert [word for word, _ in vectors.most_similar("c", topn=20)] == list("abdefgh")


def test_most_similar(vectors):
    expected = plain_cosines(MATRIX, np.float64([1, 0, 1]))
    found = dict(vectors.most_similar("king", topn=100))
    assert next(iter(found)) == "man"
    assert found.keys() == {*WORDS} - {"king"}
    for word, cosine in found.items():
        assert cosine == pytest.approx(expected[WORDS.index(word)], abs=1e-7)
    assert vectors.most_similar(MATRIX[2], topn=1) == [("king", pytest.approx(1))]
    assert vectors.most_similar([MATRIX[2], "king"], topn=1)[0][0] == "man"
    assert [word for word, _ in vectors.most_similar("king", restrict_vocab=2)] == ["man", "woman"]
    # Vectors are scaled to length 1 before the mean: a longer one has no more weight.
    longer = Vectors(WORDS, MATRIX * np.float32([[1], [1], [50], [1], [1], [1]]))
    for a, b in zip(
        vectors.most_similar(["king", "woman"], ["man"]),
        longer.most_similar(["king", "woman"], ["man"]),
        strict=True,
    ):
        assert a[0] == b[0] and a[1] == pytest.approx(b[1], abs=1e-6)


def test_analogy(vectors):
    assert vectors.analogy("man", "king", "woman", topn=1)[0][0] == "queen"
    assert vectors.analogy("king", "man", "queen", topn=1)[0][0] == "woman"


def test_similarity(vectors):
    assert vectors.similarity("king", "king") == pytest.approx(1)
    assert vectors.similarity("king", "man") == pytest.approx(1 / np.sqrt(2))
    assert vectors.similarity("man", "apple") == pytest.approx(-1 / np.sqrt(2))
    assert vectors.similarity("man", "New York") == 0  # its vector is zero


def test_doesnt_match(vectors):
    assert vectors.doesnt_match(["king", "man", "apple", "queen"]) == "apple"
    assert vectors.doesnt_match(iter(["king"])) == "king"


def test_a_vector_file_may_be_read_only(vectors):
    MATRIX.flags.writeable = False
    assert Vectors(WORDS, MATRIX).most_similar("king") == vectors.most_similar("king")


def test_unknown_words_tell_what_looks_like_them(vectors):
    message = "'quene' is none of the 6 words; near it are 'queen'"
    for call in (
        lambda: vectors["quene"],
        lambda: vectors[["king", "quene"]],
        lambda: vectors.most_similar("quene"),
        lambda: vectors.most_similar("king", "quene"),
        lambda: vectors.similarity("king", "quene"),
        lambda: vectors.doesnt_match(["king", "quene"]),
    ):
        with pytest.raises(KeyError, match=message):
            call()
    with pytest.raises(KeyError, match="near it are 'king'"):
        vectors["KING"]
    with pytest.raises(KeyError, match=r"'zzz' is none of the 6 words.$"):
        vectors["zzz"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: Vectors(["a"], MATRIX), "shape (6, 3); it must have 2 dimensions and a row"),
        (lambda v: Vectors(["a", "a"], MATRIX[:2]), "words has 'a' twice"),
        (lambda v: Vectors(["a"], [[1]]), "dtype int64; it must be floating-point"),
        (lambda v: v.most_similar("king", topn=0), "topn=0 must be at least 1"),
        (lambda v: v.most_similar("king", restrict_vocab=0), "restrict_vocab=0 must be"),
        (lambda v: v.most_similar(), "positive and negative are both empty"),
        (lambda v: v.most_similar(np.ones(4)), "shape (4,); it must be (3,)"),
        (lambda v: v.nearest(np.ones(3)), "queries has shape (3,); it must be (queries, 3)"),
        (lambda v: v.doesnt_match([]), "words is empty"),
    ],
)
def test_errors(vectors, call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(vectors)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_questions_that_are_not_finite(number):
    vectors = Vectors(["a", "b"], np.float32([[1, 0], [0, 1]]))
    with pytest.raises(ValueError, match="a vector has nan or inf"):
        vectors.most_similar([np.array([number, 1.0])])
    with pytest.raises(ValueError, match="queries: row 1 has nan or inf"):
        vectors.nearest([[1, 0], [0, number]])


def test_counts_are_a_copy(tmp_path):
    model = Word2Vec(vector_size=4, min_count=1, epochs=1, sample=0)
    model.fit(["a a a b b c"] * 9, progress=False)
    vectors = model.vectors
    vectors.counts[vectors.index["c"]] = 70
    assert vectors.counts.tolist() == [27, 18, 70]
    assert model.vocabulary.counts.tolist() == [27, 18, 9]
    model.save(tmp_path / "model.npz")  # which `load` would refuse if they did not descend
    assert Word2Vec.load(tmp_path / "model.npz").vectors.counts.tolist() == [27, 18, 9]
