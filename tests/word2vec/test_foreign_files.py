"""Files of other programs: read as they are meant, or refused with the place and the fault."""

import bz2
import gzip
import lzma
import pickle
import re
import struct
import subprocess
import sys

import numpy as np
import pytest

from fastkeras.word2vec.evaluation import evaluate_analogies, evaluate_word_pairs
from fastkeras.word2vec.phrases import Phrases
from fastkeras.word2vec.vectors import Vectors
from fastkeras.word2vec.vocabulary import Vocabulary

MATRIX = np.float32([[0.5, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff2 3\nthe 0.5 1 2\ncat 3 4 5\n",
        "\ufeffthe 0.5 1 2\ncat 3 4 5\n",
        "2\t3\nthe\t0.5\t1\t2\ncat\t3\t4\t5\n",
        "the\t0.5\t1\t2\ncat\t3\t4\t5\n",
        "the\t0.5 1 2\ncat\t3 4 5\n",
        "2 3\nthe  0.5  1  2\ncat  3  4  5\n",
        "the  0.5 1 2\n cat 3   4 5 \n",
        "2 3\r\nthe 0.5 1 2\r\ncat 3 4 5\r\n",
        "\ufeff2 3 \r\nthe\t0.5  1\t2 \r\ncat 3 4 5\t\r\n\r\n",
        " 2 3\nthe 5e-1 +1. 2\ncat 3 4 5",
    ],
)
def test_text_that_others_write(tmp_path, text):
    for zipped in bytes, gzip.compress, bz2.compress, lzma.compress:
        path = tmp_path / "vectors.vec"
        path.write_bytes(zipped(text.encode()))
        loaded = Vectors.load(path)
        assert loaded.words == ["the", "cat"]
        np.testing.assert_array_equal(loaded.matrix, MATRIX)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e39", "-Infinity"])
def test_rows_that_are_not_finite(tmp_path, number):
    path = tmp_path / "vectors.vec"
    shown = "inf" if number == "1e39" else str(float(number))
    for header, line in ("2 3\n", 3), ("", 2):
        path.write_text(f"{header}the 0.5 1 2\ncat 3 {number} 5\n")
        with pytest.raises(ValueError, match=rf"{path}: line {line}: .* 'cat' has {shown};"):
            Vectors.load(path)
    rows = MATRIX.copy()
    rows[1, 1] = float(shown)
    path.write_bytes(b"2 3\nthe " + rows[0].tobytes() + b"cat " + rows[1].tobytes())
    with pytest.raises(ValueError, match=rf"{path}: word 1: the vector of 'cat' has {shown}"):
        Vectors.load(path)
    np.save(tmp_path / "v.npy", rows)
    (tmp_path / "v.words").write_text("the\ncat\n")
    with pytest.raises(ValueError, match=rf"v.npy: row 1: the vector of 'cat' has {shown}"):
        Vectors.load(tmp_path / "v.npy")
    vectors = Vectors(["the", "cat"], rows)
    for name in ("v.bin", "v.txt", "v.npy", "v.tsv"):
        with pytest.raises(ValueError, match=rf"{name} would not be read .* 'cat' has {shown}"):
            vectors.save(tmp_path / "new" / name)
    with pytest.raises(ValueError, match="the vector of 'cat'"):
        vectors.most_similar("the")


FASTTEXT = struct.pack("<ii", 793712314, 12) + struct.pack("<12i", *range(12)) + bytes(64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FASTTEXT, "the argument dim is 0; it must be from 1 to"),
        (gzip.compress(FASTTEXT, mtime=0), "is a model of fastText, .* if it is not compressed"),
        (pickle.dumps({"vectors": [1.0]}), "is a pickle of Python, .* by gensim"),
        (pickle.dumps({"vectors": [1.0]}, 2), "is a pickle of Python"),
        ("the 1 2\n".encode("utf-16"), "is text in UTF-16"),
        (b"PK\x03\x04" + bytes(40), "is a zip file: unpack it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "is an HDF5 file"),
        (b"\x93NUMPY\x01\x00", "is an array of NumPy, whose name must end in .npy"),
        (b"2 3\nthe 0.5 1 x\ncat 3 4 5\n", r"line 2: b'the 0.5 1 x\\n' is not a word and 3 num"),
        (b"2 3\nthe 0.5 1 1_0\ncat 3 4 5\n", r"line 2: b'the 0.5 1 1_0\\n' is not a word"),
        (b"2 3\nthe 0.5 1 2 3\ncat 3 4 5\n", r"line 2: b'the 0.5 1 2 3\\n' is not a word and 3"),
        (b"2 3\nthe 1 2\ncat 3 4 5\n", r"line 2: b'the 1 2\\n' is not a word and 3 numbers"),
        (b"-2 3\nthe 0.5 1 2\n", r"line 2: b'the 0.5 1 2\\n' is not a word and 1 numbers"),
        (b"2 3\nthe 1 2 3\n 3 4 5\n", r"line 3: b' 3 4 5\\n' is not a word and 3 numbers"),
        (b"2 99999999999999999999999\n", "line 1: vectors of size 9999"),
        (b"2 9999999\nthe 1\n", "line 1: vectors of size 9999999; at most 1048576"),
        (b"9999999999 3\nthe \0\0\0\0\0\0\0\0\0\0\0\0", "after 1 of 9999999999 words"),
        (b"1 3\n " + bytes(12), "word 0 at byte 17 has no letter"),
        (gzip.compress(bytes(1 << 23), mtime=0), "line 1: .* is neither"),
        (
            gzip.compress(b"1 3\n" + bytes(1 << 23), mtime=0),
            "word 0 after byte 4 has more than 1048576",
        ),
        (
            gzip.compress(b"a 1\n" + b"b" * (1 << 23), mtime=0),
            "line 2 after byte 4 has more than 10486",
        ),
        (gzip.compress(b"a 1\n", mtime=0)[:-9] + b"\xff" * 9, "is damaged after byte"),
        (b"\x1f\x8b\x08\x00 no gzip at all", "is damaged after byte"),
        (b"BZh91AY&SY no bzip2 at all", "is damaged after byte"),
        (b"\xfd7zXZ\x00 no xz at all", "is damaged after byte"),
    ],
)
def test_other_files_are_named(tmp_path, content, message):
    path = tmp_path / "vectors.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        Vectors.load(path)
    assert str(path) in str(raised.value)


def npy(header, elements=b"", version=(1, 0)):
    header = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(header)) + header + elements


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an array of NumPy"),
        (b"\x93NUMPY", "is not an array of NumPy"),
        (b"the 1 2 3\n", "is not an array of NumPy"),
        (npy(GOOD, bytes(24), (7, 0)), r"version \(7, 0\) of the format is unknown"),
        (npy("{'descr': '<f4'", bytes(24)), "is not an array of NumPy"),
        (npy("{'descr': (((", bytes(24)), "is not an array of NumPy"),
        (npy("{" * 5000, bytes(24)), "is not an array of NumPy"),
        (npy(GOOD.replace("2, 3", "2, -3"), bytes(24)), "no number may be negative"),
        (npy(GOOD.replace("2, 3", f"{10**15}, 3"), bytes(24)), "the file at"),
        (npy(GOOD.replace("2, 3", f"{10**30}, {10**30}"), bytes(24)), "the file at"),
        (npy(GOOD.replace("2, 3", "6,"), bytes(24)), "vectors are floats of shape"),
        (npy(GOOD.replace("<f4", "<i4"), bytes(24)), "array of int32 .* vectors are floats"),
        (npy(GOOD.replace("<f4", "|O"), bytes(24)), "has Python objects"),
        (npy(GOOD, bytes(23)), "is damaged"),
        (npy(GOOD, bytes(25)), "what follows its array are no words"),
        (npy(GOOD, bytes(24) + struct.pack("<8sQI", b"FKWORDS1", 10**18, 0)), "are no words"),
    ],
)
def test_arrays_that_are_none(tmp_path, content, message):
    path = tmp_path / "vectors.npy"
    path.write_bytes(content)
    (tmp_path / "vectors.words").write_text("the\ncat\n")
    with pytest.raises(ValueError, match=message) as raised:
        Vectors.load(path)
    assert str(path) in str(raised.value)


def test_every_changed_byte_of_the_words_is_noticed(tmp_path):
    path = tmp_path / "vectors.npy"
    Vectors(["the", "cat"], MATRIX).save(path)
    good = path.read_bytes()
    for at in range(128 + MATRIX.nbytes, len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            Vectors.load(path)
    for end in range(len(good)):
        if end != 128 + MATRIX.nbytes:  # then only the words are missing, as in others' arrays
            path.write_bytes(good[:end])
            with pytest.raises(ValueError, match=re.escape(str(path))):
                Vectors.load(path)


BOMBS = """
import gzip, sys
from pathlib import Path
from fastkeras.word2vec.vectors import Vectors

path = sys.argv[1]
for start in b"", b"1 1000000\\n", b"1000000 3\\na 1 1 1\\n", b"a 1 2 3\\n":
    for filling in b"\\0", b"a", b"1 ", b"\\n", b"a 1 1 1\\n" if start == b"" else b"ab ":
        mebibyte = gzip.compress(filling * ((1 << 20) // len(filling)))
        with open(path, "wb") as file:
            file.write(gzip.compress(start) + 100 * mebibyte)
        try:
            Vectors.load(path)
        except ValueError as error:
            assert path in str(error), error
        else:
            raise AssertionError((start, filling))
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
assert int(peak) < 300 << 10, peak  # KiB; NumPy itself has 30
"""


def test_small_files_do_not_fill_the_memory(tmp_path):
    command = [sys.executable, "-c", BOMBS, tmp_path / "vectors.bin"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_vocabularies(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffthe 7\r\nNew York\t2\r\n".encode())
    assert Vocabulary.load(path).words == ["the", "New York"]
    for line in ["cat", "cat x", "cat -1", "cat 1.5", "cat 1_0", f"cat {10**30}", "cat nan"]:
        path.write_text(f"the 7\n{line}\n")
        with pytest.raises(ValueError, match=rf"{path}, line 2: .* is not `word count`"):
            Vocabulary.load(path)
    path.write_bytes(b"the 7\n\xff\xfe 3\n")
    with pytest.raises(ValueError, match=rf"{path}, line 2: .* is not UTF-8"):
        Vocabulary.load(path)


def test_phrases(tmp_path):
    path = tmp_path / "phrases.tsv"
    path.write_bytes("\ufeffnew\tyork\t1.5\r\n".encode())
    assert Phrases.load(path).scores == {("new", "york"): 1.5}
    for line in [b"a\tb", b"a\tb\tx", b"a\tb\tnan", b"a\t\tb\t1", b"\xff\tb\t1", b"\tb\t1"]:
        path.write_bytes(b"new\tyork\t1.5\n" + line + b"\n")
        with pytest.raises(ValueError, match=rf"{path}, line 2: "):
            Phrases.load(path)


def test_questions(tmp_path):
    vectors = Vectors(["a", "b"], np.float32([[1, 0], [0, 1]]))
    path = tmp_path / "pairs.txt"
    for line in [b"a\tb\tnan", b"a\tb\tinf", b"\xffa\tb\t1", b"a\tb\tx"]:
        path.write_bytes(b"a\tb\t1\n" + line + b"\n")
        with pytest.raises(ValueError, match=rf"{path}, line 2: "):
            evaluate_word_pairs(vectors, path)
    path.write_bytes(b": x\na b \xff a\n")
    with pytest.raises(ValueError, match=rf"{path}, line 2: "):
        evaluate_analogies(vectors, path)


def test_words_beside_an_array_of_others(tmp_path):
    np.save(tmp_path / "v.npy", MATRIX)
    (tmp_path / "v.words").write_bytes("\ufeffthe\r\ncat\r\n".encode())
    assert Vectors.load(tmp_path / "v.npy").words == ["the", "cat"]
    (tmp_path / "v.words").write_text("the\nthe\n")
    with pytest.raises(ValueError, match=r"v\.words has the word 'the' twice"):
        Vectors.load(tmp_path / "v.npy")


@pytest.mark.parametrize("word", [3, None, b"bytes", ("a", "b")])
def test_words_are_strings(tmp_path, word):
    with pytest.raises(ValueError, match=f"words has {re.escape(repr(word))}, which is no string"):
        Vectors(["the", word], MATRIX).save(tmp_path / "v.bin")
    with pytest.raises(ValueError, match=f"words has {re.escape(repr(word))}, which is no string"):
        Vocabulary(["the", word], [2, 1])
