"""Reading a corpus: the kinds of sources, and errors in them."""

import bz2
import gzip
import lzma
import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkeras.word2vec.corpus import Corpus, encode, encoding
from fastkeras.word2vec.corpus.text_files import blocks_of_file
from fastkeras.word2vec.vocabulary import Vocabulary, build
from word2vec.texts import LINES, WORDS, with_and_without_compiled_part

TEXT = "the cat sat\n\non the  mat\r\nalone\nthe end"
SENTENCES = [["the", "cat", "sat"], ["on", "the", "mat"], ["alone"], ["the", "end"]]


def compressed(name):
    text = TEXT.encode()
    if name == "zst":
        zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
        half = len(text) // 2  # two frames
        return b"".join(zstandard.compress(part) for part in (text[:half], text[half:]))
    return {"txt": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[name](text)


@pytest.mark.parametrize("name", ["txt", "gz", "bz2", "xz", "zst"])
def test_files_are_read_again_and_again(tmp_path, name):
    path = tmp_path / f"news.{name}"
    path.write_bytes(compressed(name))
    corpus = Corpus(path)
    assert list(corpus) == SENTENCES
    assert list(corpus) == SENTENCES
    assert [done for _, done in corpus.blocks()][-1] == corpus.size == path.stat().st_size


@pytest.mark.parametrize("name", ["gz", "bz2", "xz", "zst"])
def test_a_truncated_file_is_an_error(tmp_path, name):
    path = tmp_path / "news"
    path.write_bytes(compressed(name)[:-5])
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        list(Corpus(path))


def test_zstandard_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = tmp_path / "news.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd more")
    with pytest.raises(ImportError, match="pip install zstandard"):
        list(Corpus(path))


def test_lists_and_patterns_of_files(tmp_path):
    for name in "b", "a", "c":
        (tmp_path / f"{name}.txt").write_text(f"of {name}")
    (tmp_path / "other").write_text("other")
    files = lambda source: [path.name for path in Corpus(source).files]  # noqa: E731
    assert files(str(tmp_path / "?.txt")) == ["a.txt", "b.txt", "c.txt"]
    assert files([tmp_path / "other", str(tmp_path / "[bc].txt")]) == ["other", "b.txt", "c.txt"]
    assert list(Corpus(str(tmp_path / "?.txt"))) == [["of", "a"], ["of", "b"], ["of", "c"]]


def test_iterables():
    assert list(Corpus(SENTENCES)) == SENTENCES
    assert list(Corpus([tuple(s) for s in SENTENCES])) == SENTENCES
    assert list(Corpus([np.array(s) for s in SENTENCES])) == SENTENCES
    assert list(Corpus([["a"], [], ["a b"]])) == [["a"], ["a b"]]
    assert list(Corpus(TEXT.splitlines())) == SENTENCES
    assert list(Corpus([TEXT])) == SENTENCES  # a line feed ends a sentence here too
    assert list(Corpus([])) == []

    class Column:  # no list, no length
        def __iter__(self):
            return iter(TEXT.splitlines())

    corpus = Corpus(Column())
    assert list(corpus) == list(corpus) == SENTENCES
    assert corpus.size is None


def test_sentences_that_look_like_patterns_or_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("")
    (tmp_path / "tests").mkdir()
    assert list(Corpus(["?", "tests", "who is it"])) == [["?"], ["tests"], ["who", "is", "it"]]


def test_only_ascii_whitespace_separates():
    for text in ["a\u00a0b c\u3000d\x1fe", "a\u2028b \x85c"]:
        assert list(Corpus([text])) == [text.split(" ")]
    assert list(Corpus(["a\tb\vc\fd\re"])) == [list("abcde")]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ((word for word in ["a"]), TypeError, "generator, which can be read only once.*__iter__"),
        (b"text", TypeError, "corpus is a bytes"),
        (7, TypeError, "corpus is a int"),
        ({"text": ["a"]}, TypeError, "corpus is a dict"),
        ([{"text": "a"}], TypeError, r"corpus\[0\] is a dict.*dataset\['text'\]"),
        ([["a"], "b"], TypeError, r"corpus\[1\] is a string, after lists"),
        (["b", ["a"]], TypeError, r"corpus\[1\] is a list, after strings"),
        ([["a"], ["b", 3]], TypeError, r"corpus\[1\] has 3"),
        ([["a"], 3], TypeError, r"corpus\[1\] is a int"),
        (["a", "b\ud800"], ValueError, r"corpus\[1\] is not Unicode"),
        ("no-such-file", FileNotFoundError, "'no-such-file': there is no such file"),
        ("no-such-*.txt", FileNotFoundError, "'no-such-"),
        ("x" * 9000, FileNotFoundError, "there is no such file"),
        (
            [__file__, "a text"],
            ValueError,
            "which is a file, and 'a text', which is none; pass files",
        ),
        ([Path(__file__), "no-such-file"], FileNotFoundError, "no file 'no-such-file'"),
        ([__file__] * 100 + ["no-such-file"], FileNotFoundError, "no file 'no-such-file'"),
        ([Path(os.path.dirname(__file__))], FileNotFoundError, "there is no file"),
        ([Path("no-such-file")], FileNotFoundError, "no file .*no-such-file"),
        (os.path.dirname(__file__), IsADirectoryError, "is a folder; its files are"),
    ],
)
def test_errors(source, error, message):
    with pytest.raises(error, match=message):
        list(Corpus(source))


def test_errors_argument():
    with pytest.raises(ValueError, match="errors='ignore' must be one of 'strict', 'replace'"):
        Corpus(["a"], errors="ignore")


@pytest.mark.parametrize("opened", [open, gzip.open])
def test_invalid_utf8(tmp_path, opened):
    path = tmp_path / "news"
    with opened(path, "wb") as file:
        file.write("é a\n".encode() + b"b\xffc b\xffc d\n\xe4\xb8")
    with pytest.raises(ValueError, match=re.escape(f"{path} is not UTF-8 at byte 6 (0xff: ")):
        list(Corpus(path))
    with pytest.raises(ValueError, match="at byte 6 "):
        build(path)
    expected = [["é", "a"], ["b\ufffdc", "b\ufffdc", "d"], ["\ufffd"]]
    corpus = Corpus(path, errors="replace")
    assert list(corpus) == expected
    vocabulary = build(corpus, min_count=1)
    assert vocabulary.words == ["b\ufffdc", "é", "a", "d", "\ufffd"]
    assert encode(corpus, vocabulary).tolist() == [1, 2, -1, 0, 0, 3, -1, 4, -1]


def test_the_byte_counts_over_blocks(tmp_path):
    path = tmp_path / "news"
    path.write_bytes(b"\xef\xbb\xbfsome words " * 10 + b"\xff")
    with pytest.raises(ValueError, match="at byte 140 "):
        list(blocks_of_file(path, 16, "strict"))


def test_a_byte_order_mark_is_no_letter(tmp_path):
    path = tmp_path / "news"
    path.write_bytes(b"\xef\xbb\xbfthe cat")
    assert list(Corpus(path)) == [["the", "cat"]]


def test_files_that_are_no_text(tmp_path, monkeypatch):
    path = tmp_path / "news"
    path.write_bytes(b"a " + b"x" * 5000)
    monkeypatch.setattr("fastkeras.word2vec.corpus.text_files.LONGEST_WORD", 1000)
    with pytest.raises(ValueError, match="no whitespace in 0 MiB after byte 2"):
        list(blocks_of_file(path, 100, "strict"))


def test_files_that_change_or_vanish(tmp_path):
    path = tmp_path / "news"
    path.write_text("the cat")
    corpus = Corpus(path)
    assert list(corpus) == [["the", "cat"]]
    sentences = iter(corpus)
    next(sentences)
    path.write_text("the cat and more")
    with pytest.raises(ValueError, match=r"has changed .*7 bytes then, 16 now"):
        list(sentences)  # the file changed while it was read
    with pytest.raises(ValueError, match="has changed"):
        encode(corpus, Vocabulary(["the"], [1]))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path} is gone"):
        list(corpus)


def test_pipes_are_told_apart_from_files(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ValueError, match=f"{path} is no regular file.* write it to a file first"):
        Corpus(path)


@given(st.binary(max_size=60), st.integers(1, 20))
def test_blocks_are_the_file(tmp_path_factory, content, size):
    path = tmp_path_factory.mktemp("blocks") / "news"
    content = b"- " + content  # no byte-order mark, and nothing that looks compressed
    path.write_bytes(content)
    content = content.decode("utf-8", "replace").encode()
    blocks = [block for block, _ in blocks_of_file(path, size, "replace")]
    assert b"".join(blocks) == content + b"\n"
    assert all(block[-1:].isspace() for block in blocks)


def plain_ids(sentences, words):
    """The definition: one sentence and one word at a time."""
    ids = []
    for sentence in sentences:
        known = [words.index(word) for word in sentence if word in words]
        ids += [*known, -1] if known else []
    return ids


@given(LINES, st.sets(WORDS), st.sampled_from(["\n", "\r\n"]), st.integers(1, 30))
def test_ids_are_those_of_the_definition(tmp_path_factory, lines, words, line_end, block):
    words = sorted(words)
    vocabulary = Vocabulary(words, np.ones(len(words)))
    path = tmp_path_factory.mktemp("ids") / "news"
    path.write_bytes(line_end.join(lines).encode())
    sentences = [re.findall("[^ \t\n\v\f\r]+", line) for line in lines]
    expected = plain_ids(sentences, words)
    for source in (path, lines, sentences):
        corpus = Corpus(source)
        if corpus.is_text:
            all_blocks = corpus.blocks
            corpus.blocks = lambda all_blocks=all_blocks: all_blocks(block)
        for ids in with_and_without_compiled_part(lambda: encode(corpus, vocabulary)):  # noqa: B023
            assert ids.dtype == np.int32 and ids.tolist() == expected
    assert list(Corpus(path)) == [sentence for sentence in sentences if sentence]


def test_many_threads_give_the_same_ids(rng):
    words = [f"w{i}" for i in range(50)]
    text = " ".join(rng.choice([*words, "unknown", "\n", "\n\n"], 200_000))
    vocabulary = Vocabulary(words, np.ones(50))
    one, many = (encode([text], vocabulary, num_threads=threads) for threads in (1, 7))
    np.testing.assert_array_equal(one, many)
    assert one.tolist() == plain_ids((line.split() for line in text.split("\n")), words)


def test_a_line_of_ten_million_words(tmp_path):
    path = tmp_path / "news"
    with open(path, "w") as file:
        for _ in range(100):
            file.write("cat sat " * 50_000)
    vocabulary = build(path)
    assert dict(zip(vocabulary.words, vocabulary.counts, strict=True)) == {"cat": 5e6, "sat": 5e6}
    ids = encode(path, vocabulary)
    assert ids.shape == (10_000_001,)
    assert ids[-1] == -1
    np.testing.assert_array_equal(ids[:-1].reshape(-1, 2), np.broadcast_to([0, 1], (5_000_000, 2)))


def test_where_the_ids_are_put(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(encoding.tempfile, "tempdir", str(temporary))
    path = tmp_path / "news"
    path.write_text(TEXT)
    vocabulary = Vocabulary(["the", "cat"], [3, 1])
    ids = encode(path, vocabulary)
    assert isinstance(ids, np.memmap) and not ids.flags.writeable
    assert ids.tolist() == [0, 1, -1, 0, -1, 0, -1]
    assert os.listdir(temporary) == []
    kept = encode(path, vocabulary, folder=tmp_path)
    assert (
        np.fromfile(tmp_path / "corpus.int32", np.int32).tolist() == kept.tolist() == ids.tolist()
    )
    assert encode(path, Vocabulary([], [])).shape == (0,)
    path.write_bytes(b"the \xff")
    with pytest.raises(ValueError, match="UTF-8"):
        encode(path, vocabulary, folder=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["corpus.int32", "news", "temporary"]


@given(
    texts=st.lists(st.text("ab \r\n", max_size=12), min_size=1, max_size=3),
    block=st.integers(1, 5),
)
def test_documents_are_the_lines_of_files_empty_ones_too(texts, block):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastkeras.word2vec.corpus.corpus.BLOCK", block)
        paths = [Path(folder, str(i)) for i in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_bytes(text.encode())
        lines = [line for text in texts for line in text.removesuffix("\n").split("\n") if text]
        assert list(Corpus(paths).documents()) == [line.split() for line in lines]
    assert list(Corpus(texts).documents()) == [text.split() for text in texts]
