"""Files of vectors, our own and those of other programs."""

import bz2
import gzip
import os
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fastkeras.word2vec.vectors import Vectors, row_files
from fastkeras.word2vec.vectors.gensim_vectors import from_gensim, to_gensim

load, save = Vectors.load, Vectors.save

NAMES = ["v.bin", "v.txt", "v.vec", "v.npy", "v.bin.gz", "v.txt.gz"]
LETTERS = st.characters(exclude_characters=" \n", exclude_categories=["Cs"])
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def assert_same(a, b):
    assert a.words == b.words
    np.testing.assert_array_equal(a.matrix, b.matrix)
    assert a.matrix.dtype == b.matrix.dtype


@st.composite
def many_vectors(draw):
    words = draw(st.lists(st.text(LETTERS, min_size=1, max_size=4), unique=True, max_size=5))
    shape = (len(words), draw(st.integers(1, 4)))
    return Vectors(words, draw(arrays(np.float32, shape, elements=FLOATS)))


@pytest.mark.parametrize("name", NAMES)
@given(vectors=many_vectors())
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path_factory, name, vectors):
    path = tmp_path_factory.mktemp("files") / name
    save(vectors, path)
    loaded = load(path)
    assert_same(loaded, vectors)
    assert loaded.matrix.tobytes() == vectors.matrix.tobytes()  # even −0
    if len(vectors) > 1:
        assert_same(load(path, limit=1), Vectors(vectors.words[:1], vectors.matrix[:1]))


VECTORS = Vectors(["the", "世界", "3"], np.float32([[1, -2.5], [0.1, 1e-30], [3, 4]]))
BINARY = b"".join(
    word.encode() + b" " + row.tobytes() + b"%s"
    for word, row in zip(VECTORS.words, VECTORS.matrix, strict=True)
)
TEXT = "the 1 -2.5{end}世界 0.1 1e-30{end}3 3.0 4{end}"


@pytest.mark.parametrize(
    "content",
    [
        b"3 2\n" + BINARY % ((b"\n",) * 3),  # word2vec.c
        b"3 2\n" + BINARY % ((b"",) * 3),  # gensim
        b"3 2\n" + BINARY % (b"\n", b"\n", b""),
        ("3 2\n" + TEXT.format(end="\n")).encode(),  # gensim
        ("3 2\n" + TEXT.format(end=" \n")).encode(),  # word2vec.c and fastText
        ("3 2\r\n" + TEXT.format(end="\r\n")).encode(),
        ("3 2\n" + TEXT.format(end="\n")).strip().encode(),
        TEXT.format(end="\n").encode(),  # GloVe
        TEXT.format(end="\n").strip().encode(),
        (TEXT.format(end="\n") + "\n").encode(),
    ],
)
@pytest.mark.parametrize("zipped", [bytes, gzip.compress, bz2.compress])
@pytest.mark.parametrize("read", [row_files.READ, 5])
def test_the_variants_of_other_programs(tmp_path, monkeypatch, content, zipped, read):
    monkeypatch.setattr(row_files, "READ", read)
    path = tmp_path / "vectors"
    path.write_bytes(zipped(content))
    assert_same(load(path), VECTORS)


def test_words_of_glove_that_have_spaces(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("the 1 2\n. . . 3 4\nat name@domain.com 5 6\n")
    assert load(path).words == ["the", ". . .", "at name@domain.com"]


def test_repeated_words_keep_their_first_vectors(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("3 1\na 1\nb 2\na 3\n")
    with pytest.warns(UserWarning, match=f"{path} has 1 words again"):
        assert_same(load(path), Vectors(["a", "b"], np.float32([[1], [2]])))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"3 2\n" + (BINARY % ((b"\n",) * 3))[:-2], "ends at byte 42, after 2 of 3 words"),
        (b"3 2\n" + (BINARY % ((b"\n",) * 3))[:-10], "ends at byte 34, after 2 of 3 words"),
        (b"2 2\n" + BINARY % ((b"\n",) * 3), "goes on after its 2 words"),
        (b"3 2\na 1 2\nb 3 4\n", "line 4: it ends after 2 of 3 words"),
        (b"3 2\na 1 2\nb 3\nc 5 6\n", "line 3: b'b 3\\n' is not a word and 2 numbers"),
        (b"3 2\na 1 2\nb 3 x\nc 5 6\n", "line 3: b'b 3 x\\n' is not a word and 2 numbers"),
        (b"a 1 2\nb 3\nc 5 6\n", "line 2: b'b 3\\n' is not a word and 2 numbers"),
        (b"a 1 2\n\nb 3 4\n", "line 2: b'\\n' is not"),
        (b"2 2\na 1 2\nb 3 4\nc 5 6\n", "goes on after its 2 words"),
        (b"", "line 1: b'' is neither"),
        (b"hello\n", "line 1: b'hello' is neither"),
        (b"3 0\n", "line 1: b'3 0' is neither"),
        (b"a\xff 1 2\n", "word 0 is not UTF-8: b'a\\xff'"),
        (gzip.compress(b"a 1 2\nb 3 4\n", mtime=0)[:-3], "is damaged after byte"),
    ],
)
def test_damaged_files_name_the_place(tmp_path, content, message):
    path = tmp_path / "vectors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + re.escape(message)):
        load(path)


def test_options_of_load(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_bytes(b"a\xff 1 2\n")
    assert load(path, errors="replace").words == ["a\ufffd"]
    with pytest.raises(ValueError, match="limit=0 must be at least 1"):
        load(path, limit=0)


def test_npy_is_mapped(tmp_path):
    path = tmp_path / "vectors.npy"
    VECTORS.save(path)
    loaded = Vectors.load(path)
    assert isinstance(loaded.matrix, np.memmap)
    assert_same(loaded, VECTORS)
    np.testing.assert_array_equal(np.load(path), VECTORS.matrix)
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), VECTORS.matrix)
    assert os.listdir(tmp_path) == ["vectors.npy"]


def test_arrays_of_others_with_their_words_beside(tmp_path):
    path = tmp_path / "vectors.npy"
    np.save(path, VECTORS.matrix)
    with pytest.raises(ValueError, match=r"has no words, .* they must be in .*vectors.words"):
        load(path)
    (tmp_path / "vectors.words").write_text("the\n世界\n3\n")
    assert_same(load(path), VECTORS)
    (tmp_path / "vectors.words").write_text("the\n世界\n")
    with pytest.raises(ValueError, match=r"shape \(3, 2\), but .*vectors.words has 2 words"):
        load(path)
    (tmp_path / "vectors.words").write_text("the\n世界\n3")
    with pytest.raises(ValueError, match=r"vectors\.words, line 3"):
        load(path)
    path.write_bytes(path.read_bytes()[:-3])
    (tmp_path / "vectors.words").write_text("the\n世界\n3\n")
    with pytest.raises(ValueError, match=r"vectors\.npy is damaged"):
        load(path)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_kinds_of_floats(tmp_path, dtype):
    vectors = Vectors(["a", "b"], np.array([[0.1, 1 / 3], [2, 3]], dtype))
    for name in NAMES[:3]:
        save(vectors, tmp_path / name)
        np.testing.assert_array_equal(load(tmp_path / name).matrix, vectors.matrix.astype("f4"))
    save(vectors, tmp_path / "v.npy")
    assert_same(load(tmp_path / "v.npy"), vectors)


def test_projector(tmp_path):
    save(VECTORS, tmp_path / "vectors.tsv")
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "vectors.tsv", "f4"), VECTORS.matrix)
    assert (tmp_path / "metadata.tsv").read_text() == "the\n世界\n3\n"
    with pytest.raises(ValueError, match=r"'a\\tb' cannot be in .*vectors.tsv"):
        save(Vectors(["a\tb"], np.ones((1, 1))), tmp_path / "vectors.tsv")


@pytest.mark.parametrize("word", ["", "New York", "a\nb"])
@pytest.mark.parametrize("name", NAMES)
def test_words_that_a_format_cannot_hold(tmp_path, name, word):
    vectors = Vectors([word], np.ones((1, 1), np.float32))
    if name == "v.npy" and word == "New York":
        save(vectors, tmp_path / name)
        assert load(tmp_path / name).words == [word]
        return
    with pytest.raises(ValueError, match=re.escape(f"{word!r} cannot be in")):
        save(vectors, tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [*NAMES, "v.tsv"])
def test_a_failing_save_leaves_the_old_file(tmp_path, name):
    save(VECTORS, tmp_path / name)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    broken = Vectors(["a", "b"], np.ones((2, 2), np.float32))
    broken.matrix = None
    with pytest.raises((AttributeError, TypeError, ValueError)):
        save(broken, tmp_path / name)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_errors_of_save(tmp_path):
    with pytest.raises(ValueError, match=r"format=None of .*v.model: .* must end in one of .bin"):
        save(VECTORS, tmp_path / "v.model")
    with pytest.raises(ValueError, match="format='hdf5'"):
        save(VECTORS, tmp_path / "v.bin", "hdf5")
    with pytest.raises(ValueError, match=r"must end in \.npy"):
        save(VECTORS, tmp_path / "v.bin", "npy")
    save(VECTORS, tmp_path / "v.model", "binary")
    assert_same(load(tmp_path / "v.model"), VECTORS)


@pytest.fixture
def gensim_models():
    return pytest.importorskip("gensim.models", reason="gensim is not installed")


@pytest.mark.parametrize("binary", [True, False])
def test_gensim_reads_ours_and_we_read_gensims(tmp_path, gensim_models, binary):
    ours, theirs = tmp_path / ("v.bin" if binary else "v.txt"), tmp_path / "theirs"
    save(VECTORS, ours)
    keyed = gensim_models.KeyedVectors.load_word2vec_format(str(ours), binary=binary)
    assert_same(from_gensim(keyed), VECTORS)
    keyed.save_word2vec_format(str(theirs), binary=binary)
    assert_same(load(theirs), VECTORS)


def test_gensims_objects(gensim_models):
    keyed = to_gensim(VECTORS)
    assert isinstance(keyed, gensim_models.KeyedVectors)
    assert_same(from_gensim(keyed), VECTORS)
    assert keyed.most_similar("the") == [
        (word, pytest.approx(cosine, abs=1e-6)) for word, cosine in VECTORS.most_similar("the")
    ]


def test_a_file_of_no_vectors_has_none_whatever_the_limit(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(b"0 5\n")
    for limit in None, 3:
        loaded = load(path, limit=limit)
        assert len(loaded) == 0 and loaded.size == 5
        assert loaded.most_similar(np.ones(5)) == []
    path.write_bytes(b"0 5\na 1 2 3 4 5\n")
    with pytest.raises(ValueError, match="goes on after its 0 words"):
        load(path, limit=3)


def test_an_array_of_others_that_repeats_a_word(tmp_path):
    names = [f"w{i}" for i in range(100_000)]
    np.save(tmp_path / "v.npy", np.zeros((len(names) + 1, 1), "f4"))
    (tmp_path / "v.words").write_text("".join(f"{name}\n" for name in [*names, names[-1]]))
    with pytest.raises(ValueError, match=r"v\.words has the word 'w99999' twice"):
        load(tmp_path / "v.npy")
