"""Vectors in 8 bits, vectors with an index, and spaces that are aligned."""

import copy
import pickle
import sys
import tracemalloc

import numpy as np
import pytest

from fastkeras.word2vec import Vectors
from fastkeras.word2vec.alignment import align, translation
from fastkeras.word2vec.vectors.approximate import ApproximateVectors
from fastkeras.word2vec.vectors.eight_bits import EightBitRows, dtype_of
from fastkeras.word2vec.vectors.gensim_vectors import to_gensim

RNG = np.random.default_rng(5)
WORDS = [f"word{i}" for i in range(500)]
MATRIX = (RNG.normal(size=(500, 20)) * RNG.uniform(0.1, 9, (500, 1))).astype("f4")
MATRIX[7] = 0


@pytest.fixture
def vectors():
    return Vectors(WORDS, MATRIX)


def test_eight_bits_are_the_nearest(vectors):
    small = vectors.quantized()
    scales = np.abs(MATRIX).max(1, keepdims=True) / 127
    assert (np.abs(small[WORDS] - MATRIX) <= scales / 2 * 1.0001).all()
    assert not small["word7"].any()
    np.testing.assert_array_equal(small["word3"], small[["word3"]][0])
    np.testing.assert_array_equal(np.asarray(small.matrix), small[WORDS])
    unit = MATRIX / np.maximum(np.linalg.norm(MATRIX, axis=1, keepdims=True), 1e-30)
    rows, cosines = small.nearest(MATRIX[:50], 10)
    exact = (unit[:50] @ unit.T)[np.arange(50)[:, None], rows]
    np.testing.assert_allclose(cosines, exact, atol=0.01)
    expected, _ = vectors.nearest(MATRIX[:50], 10)
    recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(rows, expected, strict=True)])
    assert recall > 0.95
    assert small.most_similar_cosmul("word1", "word2") and small.rank("word1", "word2")


def test_eight_bits_in_files(tmp_path, vectors):
    small = vectors.quantized()
    small.save(tmp_path / "v.npy")
    vectors.save(tmp_path / "dense.npy")
    assert (tmp_path / "v.npy").stat().st_size < 0.45 * (tmp_path / "dense.npy").stat().st_size
    assert np.load(tmp_path / "v.npy").dtype == dtype_of(20)
    loaded = Vectors.load(tmp_path / "v.npy")
    assert isinstance(loaded.matrix, EightBitRows) and isinstance(loaded.matrix.rows, np.memmap)
    assert loaded.words == WORDS
    np.testing.assert_array_equal(loaded[WORDS], small[WORDS])
    assert Vectors.load(tmp_path / "v.npy", limit=3).most_similar("word1", topn=5)
    for name in ("v.bin", "v.txt", "v.tsv"):
        loaded.save(tmp_path / name)
    np.testing.assert_array_equal(Vectors.load(tmp_path / "v.bin").matrix, small[WORDS])
    np.testing.assert_array_equal(Vectors.load(tmp_path / "v.txt").matrix, small[WORDS])
    for made in copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded)):
        assert made.most_similar("word1") == small.most_similar("word1")
    loaded["new"] = np.ones(20)  # then it is dense
    np.testing.assert_array_equal(loaded["word1"], small["word1"])
    tracemalloc.start()
    Vectors.load(tmp_path / "v.npy")
    assert tracemalloc.get_traced_memory()[1] < 400_000  # the words, not the numbers
    tracemalloc.stop()


def test_eight_bits_of_others(tmp_path):
    rows = np.zeros(2, dtype_of(3))
    rows["scale"] = [1, np.nan]
    (tmp_path / "v.words").write_text("a\nb\n")
    np.save(tmp_path / "v.npy", rows)
    with pytest.raises(ValueError, match="the vector of 'b' has nan"):
        Vectors.load(tmp_path / "v.npy")
    for dtype in ([("scale", "<f4")], [("scale", "<f4"), ("codes", "i2", (3,))], dtype_of(0)):
        np.save(tmp_path / "v.npy", np.zeros((2, 2), dtype))
        with pytest.raises(ValueError, match="vectors are floats of shape"):
            Vectors.load(tmp_path / "v.npy")
    with pytest.raises(ValueError, match="row 1 has nan or inf"):
        EightBitRows.of(np.array([[1.0], [np.inf]]))


def turned():
    turn, _ = np.linalg.qr(RNG.normal(size=(20, 20)))
    return turn


def test_alignment(vectors):
    turn = turned()
    target = Vectors([f"wort{i}" for i in range(500)], MATRIX.astype("f8") @ turn)
    pairs = [(f"word{i}", f"wort{i}") for i in range(100)]
    found = translation(vectors, target, pairs)
    np.testing.assert_allclose(found, turn, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found @ found.T, np.eye(20), atol=1e-12)
    aligned = align(vectors, target, pairs)
    assert aligned.words == WORDS and aligned.matrix.dtype == np.float32
    # computed in float64, and rounded once
    np.testing.assert_allclose(aligned.matrix, target.matrix, rtol=2.0**-24, atol=1e-12)
    noisy = Vectors(WORDS, target.matrix + RNG.normal(size=MATRIX.shape))
    of_all = translation(vectors, noisy)  # all words in common
    random = np.linalg.norm(MATRIX @ turned() - noisy.matrix)
    assert np.linalg.norm(MATRIX @ of_all - noisy.matrix) < 0.5 * random


def test_alignment_by_least_squares_is_gensims(vectors):
    models = pytest.importorskip("gensim.models", reason="gensim is not installed")
    target = Vectors(WORDS, (MATRIX[:, :15] @ RNG.normal(size=(15, 12))).astype("f4"))
    pairs = [(word, word) for word in WORDS[10:200]]
    theirs = models.TranslationMatrix(to_gensim(vectors), to_gensim(target), pairs)
    theirs.train(pairs)
    found = translation(vectors, target, pairs, orthogonal=False)
    np.testing.assert_allclose(found, theirs.translation_matrix, rtol=1e-3, atol=1e-5)


def test_alignment_names_what_is_wrong(vectors):
    other = Vectors(["a"], np.ones((1, 3)))
    for arguments, message in (
        ((vectors, other), "source and target have no word in common"),
        ((vectors, vectors, []), "pairs is empty"),
        ((vectors, other, [("word1", "a")]), "size 20, target 3; .* orthogonal=False"),
    ):
        with pytest.raises(ValueError, match=message):
            align(*arguments)
    with pytest.raises(KeyError, match="'unknown' is none of"):
        align(vectors, vectors, [("unknown", "word1")])


def test_faiss_is_not_installed(vectors, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        ApproximateVectors(vectors)
