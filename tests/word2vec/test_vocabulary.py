"""Counting words."""

import os
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkeras.word2vec import vocabulary as module
from fastkeras.word2vec.corpus import Corpus
from fastkeras.word2vec.vocabulary import Vocabulary, build
from word2vec.texts import LINES, with_and_without_compiled_part


def counts_of(vocabulary):
    return list(zip(vocabulary.words, vocabulary.counts.tolist(), strict=True))


@given(LINES, st.integers(1, 3), st.sampled_from([None, 1, 3]), st.integers(1, 30))
def test_counts_are_those_of_collections_counter(lines, min_count, max_vocab, block):
    """`Counter.most_common` sorts by count, and equal counts by first occurrence."""
    sentences = [re.findall("[^ \t\n\v\f\r]+", line) for line in lines]
    expected = Counter(word for sentence in sentences for word in sentence).most_common()
    expected = [(word, count) for word, count in expected if count >= min_count][:max_vocab]
    for source in (lines, sentences):
        corpus = Corpus(source)
        if corpus.is_text:
            all_blocks = corpus.blocks
            corpus.blocks = lambda all_blocks=all_blocks: all_blocks(block)
        if not expected:
            with pytest.raises(ValueError, match=r"no words|min_count"):
                build(corpus, min_count, max_vocab)
            continue
        for built in with_and_without_compiled_part(lambda: build(corpus, min_count, max_vocab)):  # noqa: B023
            assert counts_of(built) == expected
            assert built.counts.dtype == np.int64
            assert built.index == {word: i for i, (word, _) in enumerate(expected)}


@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(16, 300))
def test_a_full_table_drops_the_same_rare_words(seed, table_size, block):
    words = np.random.default_rng(seed).zipf(1.3, 400)
    corpus = Corpus([" ".join(f"w{word}" for word in words)])
    (text, done), *_ = corpus.blocks()
    cuts = [0, *(i + 1 for i in range(block, len(text), block) if text[i : i + 1] == b" ")]
    parts = [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]
    corpus.blocks = lambda: ((part, done) for part in parts)

    kept, floor = Counter(), 0
    for part in parts:
        kept.update(part.decode().split())
        while len(kept) > table_size:
            floor += 1
            kept = Counter({word: count for word, count in kept.items() if count > floor})
    for built in with_and_without_compiled_part(
        lambda: build(corpus, 1, table_size=table_size) if kept else None
    ):
        assert built is None or counts_of(built) == kept.most_common()


@pytest.mark.parametrize("letters", ["ab", "abcdefghijklmnopqrstuvwxyz0123456789é世"])
def test_many_threads_count_the_same(rng, letters):
    words = ["".join(rng.choice(list(letters), size)) for size in rng.integers(1, 30, 3000)]
    text = "\n".join(rng.choice(words, 150_000))
    expected = Counter(text.split("\n")).most_common()
    for num_threads in (1, 2, 7):
        assert counts_of(build([text], 1, num_threads=num_threads)) == expected


def test_progress_runs_to_the_total(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text("the cat sat\n" * 100)
    calls = []
    for source, total in [(paths, 2400), (["the cat"] * 50, 50), ([["the", "cat"]] * 50, 50)]:
        calls.clear()
        build(source, progress=lambda *call: calls.append(call))
        assert calls[-1] == (total, total)
        assert calls == sorted(calls)


@pytest.mark.parametrize(
    ("corpus", "options", "message"),
    [
        ([], {}, "corpus has no words"),
        (["", " \n "], {}, "corpus has no words"),
        (["a b b"], {}, "min_count=5 times: of its 2 words 'b' comes most often, 2 times"),
        ([["a", "b", "b"]], {}, "of its 2 words 'b' comes most often, 2 times"),
        (["a"], {"min_count": 0}, "min_count=0 must be at least 1"),
        (["a"], {"max_vocab": 0}, "max_vocab=0 must be at least 1"),
        (["a"], {"table_size": 0}, "table_size=0 must be at least 1"),
    ],
)
def test_errors(corpus, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(corpus, **options)


@pytest.mark.parametrize(
    ("words", "counts", "message"),
    [
        (["a", "b"], [1], r"counts has shape \(1,\), words 2 words"),
        (["a", "b", "a"], [3, 2, 1], "words has 'a' twice"),
        (["a", "b"], [1, 2], "counts must descend, but 2 follows 1 at 1"),
    ],
)
def test_errors_of_the_constructor(words, counts, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(words, counts)


def test_save_and_load(tmp_path):
    path = tmp_path / "vocabulary.txt"
    saved = Vocabulary(["the", "New York", "世\r", "\u2028", ""], [2**40, 9, 5, 5, 1])
    saved.save(path)
    loaded = Vocabulary.load(path)
    assert counts_of(loaded) == counts_of(saved)
    assert path.read_bytes().startswith(b"the 1099511627776\nNew York 9\n")
    with pytest.raises(ValueError, match="has a line feed"):
        Vocabulary(["a\nb"], [1]).save(path)
    assert counts_of(Vocabulary.load(path)) == counts_of(saved)  # the old file is untouched
    assert os.listdir(tmp_path) == ["vocabulary.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the 5\ncat\n", "line 2: b'cat' is not"),
        (b"the 5\n\ncat 3\n", "line 2: b'' is not"),
        (b"the 5\n\xff 3\n", "line 2"),
        (b"the 5\nthe 3\n", "words has 'the' twice"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        Vocabulary.load(path)


def test_the_compiled_part_is_used():
    core = pytest.importorskip("fastkeras._core", reason="nothing was compiled")
    assert isinstance(module._counter(Corpus(["a"])), core.WordCounter)


def test_a_rule_keeps_and_leaves_out_words():
    corpus = ["a a a b b c d", "a b e"]
    verdicts = {"a": False, "c": True, "e": True}
    seen = {}

    def rule(word, count):
        seen[word] = count
        return verdicts.get(word)

    for built in with_and_without_compiled_part(lambda: build(corpus, 2, trim_rule=rule)):
        assert built.words == ["b", "c", "e"] and built.counts.tolist() == [3, 1, 1]
        assert seen == {"a": 4, "b": 3, "c": 1, "d": 1, "e": 1}
    assert build(corpus, 2, 1, trim_rule=rule).words == ["b"]
    with pytest.raises(ValueError, match="trim_rule and min_count=9 leave no word"):
        build(corpus, 9, trim_rule=lambda word, count: None)
    with pytest.raises(TypeError, match=r"trim_rule\('a', 4\) is 1; it must be a bool or None"):
        build(corpus, trim_rule=lambda word, count: 1)
    with pytest.raises(ValueError, match="corpus has no words"):
        build([""], trim_rule=rule)
