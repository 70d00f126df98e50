"""What vectors answer, beside gensim on the same vectors and by the definition."""

import copy
import pickle
import re

import numpy as np
import pytest

from fastkeras.word2vec.subwords import bags_of
from fastkeras.word2vec.vectors import Vectors
from fastkeras.word2vec.vectors.gensim_vectors import to_gensim
from fastkeras.word2vec.vectors.subword_vectors import SubwordVectors

WORDS = [f"word{i}" for i in range(40)]
RNG = np.random.default_rng(7)
MATRIX = (RNG.normal(size=(40, 6)) * RNG.uniform(0.2, 5, (40, 1))).astype("f4")


@pytest.fixture
def vectors():
    return Vectors(WORDS, MATRIX.copy(), range(40, 0, -1))


@pytest.fixture
def keyed(vectors):
    pytest.importorskip("gensim", reason="gensim is not installed")
    return to_gensim(vectors)


def assert_pairs(ours, theirs):
    assert [word for word, _ in ours] == [word for word, _ in theirs]
    np.testing.assert_allclose([s for _, s in ours], [s for _, s in theirs], rtol=2e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Call to deprecated `init_sims`")  # of gensim by itself
@pytest.mark.parametrize(
    "given",
    [
        {"positive": ["word3"]},
        {"positive": "word3", "topn": 3},
        {"positive": ["word3", "word5"], "negative": ["word1"], "topn": 12},
        {"positive": ["word3", "word39"], "negative": ["word1", "word2"], "restrict_vocab": 20},
    ],
)
def test_most_similar(vectors, keyed, given):
    assert_pairs(vectors.most_similar(**given), keyed.most_similar(**given))
    first = given.pop("restrict_vocab", None)  # gensim's other search ignores it
    expected = keyed.most_similar_cosmul(**{**given, "topn": 40})
    if first is not None:
        expected = [pair for pair in expected if pair[0] in WORDS[:first]]
    found = vectors.most_similar_cosmul(**given, restrict_vocab=first)
    assert_pairs(found, expected[: given.get("topn", 10)])


def test_most_similar_cosmul_of_vectors(vectors):
    unit = MATRIX / np.linalg.norm(MATRIX, axis=1, keepdims=True)
    shifted = (1 + unit.astype("f8") @ unit[[4, 7]].T.astype("f8")) / 2
    expected = shifted[:, 0] / (shifted[:, 1] + 1e-6)
    found = vectors.most_similar_cosmul(MATRIX[4], [MATRIX[7]], topn=40)
    assert [word for word, _ in found] == [WORDS[i] for i in np.argsort(-expected)]
    np.testing.assert_allclose([s for _, s in found], np.sort(expected)[::-1], rtol=1e-4)


def test_distances(vectors, keyed):
    np.testing.assert_allclose(
        vectors.distances("word2"), keyed.distances("word2"), rtol=1e-5, atol=1e-6
    )
    of_three = vectors.distances(MATRIX[2], ["word5", "word0"])
    np.testing.assert_allclose(of_three, keyed.distances("word2", ["word5", "word0"]), rtol=1e-5)
    assert vectors.distance("word2", "word5") == pytest.approx(of_three[0])
    assert vectors.distances("word2", []).shape == (0,)


def test_ranks(vectors, keyed):
    for a, b in ("word0", "word9"), ("word7", "word30"), ("word1", "word1"):
        assert vectors.rank(a, b) == keyed.rank(a, b)
        assert vectors.closer_than(a, b) == keyed.closer_than(a, b)
    nearest = vectors.most_similar("word4", topn=39)
    assert [vectors.rank("word4", word) for word, _ in nearest] == list(range(1, 40))


def test_similarities_of_several(vectors, keyed):
    a, b = ["word1", "word2", "word3"], ["word9", "word8"]
    assert vectors.n_similarity(a, b) == pytest.approx(float(keyed.n_similarity(a, b)), abs=1e-6)
    for topn in 3, 10:
        expected = keyed.relative_cosine_similarity("word1", "word2", topn)
        assert vectors.relative_cosine_similarity("word1", "word2", topn) == pytest.approx(
            float(expected), rel=1e-5
        )
    with pytest.raises(ValueError, match="is the only word"):
        Vectors(["a"], np.ones((1, 2))).relative_cosine_similarity("a", "a")


@pytest.mark.parametrize("pre_normalize", [False, True])
@pytest.mark.parametrize("post_normalize", [False, True])
@pytest.mark.parametrize("weights", [None, [1.0, -0.5, 0.25, 2.0]])
def test_means(vectors, keyed, pre_normalize, post_normalize, weights):
    words = ["word1", MATRIX[7], "unknown", "word3"]
    options = weights, pre_normalize, post_normalize
    found = vectors.mean_vector(words, *options)
    np.testing.assert_allclose(found, keyed.get_mean_vector(words, *options), rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32
    with pytest.raises(KeyError, match="'unknown' is none of the 40"):
        vectors.mean_vector(words, *options, ignore_missing=False)


def test_names_that_gensim_has(vectors, keyed):
    assert vectors.index_to_key == keyed.index_to_key
    assert vectors.key_to_index == keyed.key_to_index
    assert keyed.get_vecattr("word3", "count") == vectors.counts[3] == 37


def test_adding(vectors, keyed):
    new = RNG.normal(size=(3, 6)).astype("f4")
    for each in vectors, keyed:
        each.most_similar("word1")  # has norms, which must not stay
        each.add_vectors(["new", "word1", "newer"], list(new))
        each["word2"] = new[0]
        each[["word3", "newest"]] = new[1:]
    assert vectors.words == keyed.index_to_key and vectors.index == keyed.key_to_index
    np.testing.assert_array_equal(vectors.matrix, keyed.vectors)
    keyed.fill_norms(force=True)  # which gensim keeps, so that its search would fail
    assert_pairs(vectors.most_similar("new"), keyed.most_similar("new"))
    assert vectors.counts.tolist() == [*range(40, 0, -1), 0, 0, 0]
    vectors.add_vectors("word1", [new[2]], replace=True)
    vectors.add_vectors(["counted"], [new[2]], [9])
    np.testing.assert_array_equal(vectors["word1"], new[2])
    assert vectors.counts[vectors.index["counted"]] == 9


def test_adding_to_mapped_vectors(tmp_path, vectors):
    vectors.save(tmp_path / "v.npy")
    mapped = Vectors.load(tmp_path / "v.npy")
    mapped["word1"] = np.ones(6)
    mapped["new"] = np.ones(6)
    np.testing.assert_array_equal(mapped["word1"], mapped["new"])
    np.testing.assert_array_equal(Vectors.load(tmp_path / "v.npy")["word1"], MATRIX[1])


def test_vectors_for_all(vectors, keyed):
    words = ["word5", "unknown", "word1", "word5"]
    ours, theirs = vectors.vectors_for_all(words), keyed.vectors_for_all(words)
    assert ours.words == theirs.index_to_key == ["word5", "word1"]
    np.testing.assert_array_equal(ours.matrix, theirs.vectors)
    assert ours.counts.tolist() == [35, 39]
    assert vectors.vectors_for_all([]).matrix.shape == (0, 6)


def test_vectors_for_all_of_subwords():
    words = ["walking", "sleeping"]
    bags = bags_of(words, 100, 3, 4)
    matrix = RNG.normal(size=(bags.num_rows, 4)).astype("f4")
    vectors = SubwordVectors(words, matrix, bags, 100, 3, 4, [5, 3])
    found = vectors.vectors_for_all(["swimming", "walking", "x"])
    assert found.words == ["swimming", "walking"] and found.counts.tolist() == [0, 5]
    np.testing.assert_array_equal(found["swimming"], vectors["swimming"])
    assert vectors.vectors_for_all(["swimming"], allow_inference=False).words == []
    assert vectors.mean_vector(["swimming"], pre_normalize=False) == pytest.approx(
        vectors["swimming"]
    )
    assert vectors.rank("swimming", "walking") in (1, 2)
    assert vectors.closer_than("walking", "swimming") in ([], ["sleeping"])
    for change in lambda: vectors.add_vectors(["a"], [[1]]), lambda: vectors.__setitem__("a", 1):
        with pytest.raises(ValueError, match="a copy can be changed"):
            change()


def test_copies(tmp_path, vectors):
    bags = bags_of(["walking"], 100, 3, 4)
    of_subwords = SubwordVectors(["walking"], np.ones((bags.num_rows, 2), "f4"), bags, 100, 3, 4)
    vectors.save(tmp_path / "v.npy")
    for original in vectors, of_subwords, Vectors.load(tmp_path / "v.npy"):
        for made in copy.deepcopy(original), pickle.loads(pickle.dumps(original)):
            assert type(made) is type(original) and made.words == original.words
            np.testing.assert_array_equal(made.matrix, original.matrix)
            assert not np.shares_memory(made.matrix, original.matrix)
            word = original.words[0]
            assert made.most_similar(word, topn=3) == original.most_similar(word, topn=3)
    again = pickle.loads(pickle.dumps(of_subwords))
    np.testing.assert_array_equal(again["walked"], of_subwords["walked"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: v.add_vectors(["a"], [[1, 2]]), "vectors has shape (1, 2)"),
        (lambda v: v.add_vectors(["a", "b"], [[1] * 6]), "2 words need (2, 6)"),
        (lambda v: v.add_vectors(["a", "a"], np.ones((2, 6))), "words has 'a' twice"),
        (lambda v: v.add_vectors(["a"], [[np.nan] * 6]), "that of 'a' has nan or inf"),
        (lambda v: v.add_vectors(["a"], [[1] * 6], [1, 2]), "counts (2,)"),
        (lambda v: v.add_vectors([3], [[1] * 6]), "words has 3, which is no string"),
        (lambda v: Vectors(v.words, v.matrix, [1]), "counts has shape (1,); it must be (40,)"),
        (lambda v: v.mean_vector([]), "words is empty"),
        (lambda v: v.mean_vector(["word1"], [1, 2]), "weights has shape (2,)"),
        (lambda v: v.mean_vector(["word1"], [np.nan]), "weights has shape (1,)"),
        (lambda v: v.n_similarity([], ["word1"]), "words is empty"),
        (lambda v: v.most_similar_cosmul(), "positive and negative are both empty"),
        (lambda v: v.most_similar_cosmul("word1", topn=0), "topn=0 must be at least 1"),
    ],
)
def test_errors(vectors, call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(vectors)
    for unknown in (
        lambda: vectors.distances("unknown"),
        lambda: vectors.distances("word1", ["unknown"]),
        lambda: vectors.rank("word1", "unknown"),
        lambda: vectors.mean_vector(["unknown"]),
    ):
        with pytest.raises(KeyError):
            unknown()


def test_no_vectors_have_no_neighbors():
    empty = Vectors([], np.empty((0, 5), "f4"))
    for topn in 1, 10:
        rows, cosines = empty.nearest(np.ones((3, 5)), topn)
        assert rows.shape == cosines.shape == (3, 0)
    assert empty.most_similar(np.ones(5)) == empty.most_similar_cosmul(np.ones(5)) == []


def test_relative_similarity_without_a_neighbor_on_any_side():
    around = Vectors(["a", "b", "c"], np.array([[1, 0], [0, 1], [0, -1.0]]))
    with pytest.raises(ValueError, match=r"a='a': the cosines of the 2 words .* sum to 0"):
        around.relative_cosine_similarity("a", "b")
