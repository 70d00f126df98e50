"""Columns of tables and streams as corpora."""

import io
import subprocess
import sys

import numpy as np
import pytest

from fastkeras.word2vec import Vectors, Word2Vec
from fastkeras.word2vec.corpus import Corpus, encode
from fastkeras.word2vec.vocabulary import build

TEXT = ["the cat sat", None, "on the mat\nthe end", ""]
EXPECTED = [["the", "cat", "sat"], ["on", "the", "mat"], ["the", "end"]]


class Table:
    """What a data set of Hugging Face is asked for."""

    column_names = ("text", "label")

    def iter(self, batch_size):
        for begin in range(0, len(TEXT), 2):
            yield {"text": TEXT[begin : begin + 2], "label": [0, 1]}


class Stream(Table):
    column_names = None


class Frame:
    """What a data frame is asked for."""

    columns = ("text",)

    def __getitem__(self, name):
        return TEXT


class Series(list):
    def dropna(self):
        return [value for value in self if value == value]


class FrameOfPandas(Frame):
    def __getitem__(self, name):
        return Series(float("nan") if value is None else value for value in TEXT)


@pytest.mark.parametrize("source", [Table(), Stream(), Frame(), FrameOfPandas()])
def test_tables(source):
    corpus = Corpus(source, column="text")
    for _ in range(2):
        assert list(corpus) == EXPECTED
    assert build(corpus, min_count=1).words[0] == "the"
    with pytest.raises(ValueError, match=r"column='body' is none of the columns of corpus: 'text'"):
        Corpus(source, column="body")


def test_what_has_no_columns():
    with pytest.raises(TypeError, match="corpus is a list, which has no columns"):
        Corpus(["a b", "c d"], column="text")
    with pytest.raises(TypeError, match="column=3 must be the name"):
        Corpus(Table(), column=3)


@pytest.fixture
def pyarrow():
    return pytest.importorskip("pyarrow", reason="pyarrow is not installed")


@pytest.fixture
def files(tmp_path, pyarrow):
    from pyarrow import feather, parquet

    table = pyarrow.table({"text": TEXT, "words": [t.split() if t else [] for t in TEXT]})
    for name in "t.parquet", "whole.parquet":
        parquet.write_table(table, tmp_path / name, row_group_size=2)
    feather.write_feather(table, tmp_path / "t.feather")
    with pyarrow.ipc.new_stream(tmp_path / "t.arrow", table.schema) as writer:
        writer.write_table(table)
    return tmp_path, table


def test_files_of_tables(files):
    from pyarrow import dataset

    folder, table = files
    for name in ("t.parquet", "t.feather", "t.arrow"):
        path = folder / name
        corpus = Corpus(path, column="text")
        assert list(corpus) == EXPECTED
        vocabulary = build(corpus, min_count=1)
        ids = encode(corpus, vocabulary)
        np.testing.assert_array_equal(ids, encode([t or "" for t in TEXT], vocabulary))
        assert isinstance(ids, np.memmap)
        joined = [EXPECTED[0], EXPECTED[1] + EXPECTED[2]]
        assert list(Corpus(path, column="words")) == joined
        with pytest.raises(ValueError, match=r"is a (Parquet|Arrow) file: name its column"):
            Corpus(path)
        with pytest.raises(ValueError, match=f"none of the columns of .*{name}: 'text', 'words'"):
            Corpus(path, column="body")
        path.write_bytes(path.read_bytes()[:-20] if name != "t.arrow" else b"\xff" * 40)
        with pytest.raises(ValueError, match=r"is a damaged|has changed"):
            list(corpus)
        with pytest.raises(ValueError, match="is a damaged"):
            list(Corpus(path, column="text"))
    for source in table, dataset.dataset(folder / "whole.parquet"):
        for _ in range(2):
            assert list(Corpus(source, column="text")) == EXPECTED
        with pytest.raises(ValueError, match="none of the columns of corpus: 'text', 'words'"):
            Corpus(source, column="body")
    (folder / "t.txt").write_text("a b\n")
    with pytest.raises(ValueError, match="is no Parquet or Arrow file"):
        Corpus(folder / "t.txt", column="text")


def test_streams():
    for stream in io.StringIO("the cat\nsat"), io.BytesIO(b"the cat\nsat"):
        corpus = Corpus(stream)
        for _ in range(2):
            assert list(corpus) == [["the", "cat"], ["sat"]]
    model = Word2Vec(vector_size=4, min_count=1, epochs=1, sample=0)
    model.fit(io.StringIO("the cat sat on the mat\n" * 5), progress=False)
    assert "mat" in model.vectors


def test_the_command_reads_from_standard_input(tmp_path):
    command = [sys.executable, "-m", "fastkeras", "word2vec", "train", "-", "--sample", "0"]
    command += ["-o", str(tmp_path / "v.bin"), "--min-count", "1", "--vector-size", "4"]
    done = subprocess.run(command, input=b"the cat sat\n" * 9, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert Vectors.load(tmp_path / "v.bin").words == ["the", "cat", "sat"]
