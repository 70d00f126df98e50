"""Vectors and models through pipes: read from standard input, written to standard output."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from fastkeras.cli import main
from fastkeras.word2vec import Vectors, Word2Vec, fasttext

WORDS = ["man", "woman", "king", "queen", "apple"]
MATRIX = np.float32([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1], [-1, -1, 0]])
VECTORS = Vectors(WORDS, MATRIX)
TEXT = ["walking walked walker", "one two three"] * 20


def command(*arguments, given=b""):
    """Run `fastkeras word2vec` with this as its standard input, from a pipe."""
    line = [sys.executable, "-m", "fastkeras", "word2vec", *map(str, arguments)]
    done = subprocess.run(line, input=given, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done


def through_a_pipe(content, path, read):
    """What `read` makes of a named pipe into which these bytes are written once."""
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(content,))
    writer.start()
    try:
        return read(path)
    finally:
        writer.join()


@pytest.fixture
def model():
    options = {"vector_size": 8, "min_count": 1, "sample": 0, "num_threads": 1, "epochs": 2}
    return Word2Vec(subwords=True, buckets=500, **options).fit(TEXT, progress=False)


@pytest.mark.parametrize("name", ["v.bin", "v.txt", "v.bin.gz", "m.ftbin"])
def test_vectors_are_loaded_from_a_pipe(tmp_path, name):
    if name == "m.ftbin":
        fasttext.save(VECTORS, tmp_path / name)
    else:
        VECTORS.save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    loaded = through_a_pipe(content, tmp_path / "pipe", Vectors.load)
    assert loaded.words == WORDS
    np.testing.assert_array_equal(loaded.matrix, MATRIX)


def test_an_error_names_the_pipe(tmp_path):
    with pytest.raises(ValueError, match=r"pipe, line 3: b'b 3\\n' is not a word and 2 numbers"):
        through_a_pipe(b"2 2\na 1 2\nb 3\n", tmp_path / "pipe", Vectors.load)
    assert not list(tmp_path.glob("fastkeras-*"))


def test_the_command_reads_vectors_from_standard_input(tmp_path, model):
    VECTORS.save(tmp_path / "v.bin")
    content = (tmp_path / "v.bin").read_bytes()
    found = command("similar", "-", "king", "-n", "2", given=content)
    assert found.stdout == b" 0.7071  man\n 0.5000  queen\n"
    model.save(tmp_path / "m.npz")
    content = (tmp_path / "m.npz").read_bytes()
    found = command("similar", "-", "walks", "-n", "1", given=content)
    assert b"walk" in found.stdout


@pytest.mark.parametrize("name", ["similar", "analogy"])
def test_vectors_and_words_cannot_both_come_from_standard_input(name, capsys):
    assert main(["word2vec", name, "-"]) == 1
    assert "standard input has the vectors, so the words must be" in capsys.readouterr().err


def test_the_command_writes_vectors_to_standard_output(tmp_path, model):
    VECTORS.save(tmp_path / "v.txt")
    done = command("export", tmp_path / "v.txt", "-", "--format", "binary", "--limit", "3")
    (tmp_path / "again.bin").write_bytes(done.stdout)
    again = Vectors.load(tmp_path / "again.bin")
    assert again.words == WORDS[:3]
    np.testing.assert_array_equal(again.matrix, MATRIX[:3])
    assert done.stderr == b"/dev/stdout: 3 words, vectors of size 3\n"
    model.save(tmp_path / "m.npz")
    done = command("export", tmp_path / "m.npz", "-", "--fasttext")
    fasttext.save(model, tmp_path / "expected.bin")
    assert done.stdout == (tmp_path / "expected.bin").read_bytes()


def test_training_between_two_pipes(tmp_path):
    options = ["--min-count", "1", "--sample", "0", "--vector-size", "4", "--format", "text"]
    done = command("train", "-", "-o", "-", *options, given="\n".join(TEXT).encode())
    (tmp_path / "v.txt").write_bytes(done.stdout)
    assert sorted(Vectors.load(tmp_path / "v.txt").words) == sorted({*" ".join(TEXT).split()})
    assert b"/dev/stdout: 6 words, vectors of size 4" in done.stderr


def test_a_form_for_names_of_no_known_suffix(tmp_path, capsys):
    VECTORS.save(tmp_path / "v.bin")
    export = ["word2vec", "export", str(tmp_path / "v.bin"), str(tmp_path / "v.model")]
    assert main(export) == 1
    assert main(["word2vec", "export", str(tmp_path / "v.bin"), "-"]) == 1
    assert (
        capsys.readouterr().err.count("must be one of ['binary', 'npy', 'projector', 'text']") == 2
    )
    assert main([*export, "--format", "text"]) == 0
    assert (tmp_path / "v.model").read_text().startswith("5 3\nman 1 0 0\n")
