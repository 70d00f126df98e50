"""Parts of words and their hashes."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkeras.word2vec import subwords
from fastkeras.word2vec.subwords import bags_of, means, ngram_ids, ngrams

WORDS = st.lists(st.text("abé世😀<>", max_size=6), max_size=8)


def fnv(ngram):
    """FNV-1a as in fastText, one byte at a time."""
    hash = 2166136261
    for byte in ngram.encode():
        hash ^= byte if byte < 128 else byte | 0xFFFFFF00
        hash = hash * 16777619 % 2**32
    return hash


def test_the_hash_of_plain_letters_is_the_published_fnv_1a():
    """Test vectors of the FNV draft (Fowler, Noll, Vo, Eastlake), appendix C."""
    assert fnv("a") == 0xE40C292C
    assert fnv("foobar") == 0xBF9CF968


@given(WORDS, st.integers(1, 3), st.integers(0, 4), st.sampled_from([1, 7, 2_000_000, 2**31 - 1]))
def test_ids_are_the_hashes_of_the_ngrams(words, min_n, more, buckets):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subwords, "WORDS_AT_A_TIME", 3)
        ids, offsets = ngram_ids(words, buckets, min_n, min_n + more)
    assert ids.dtype == offsets.dtype == np.int32
    assert len(offsets) == len(words) + 1 and offsets[0] == 0
    for i, word in enumerate(words):
        expected = [fnv(ngram) % buckets for ngram in ngrams(word, min_n, min_n + more)]
        assert ids[offsets[i] : offsets[i + 1]].tolist() == expected
    assert len(ids) == offsets[-1]


@pytest.mark.parametrize(
    ("word", "lengths", "expected"),
    [
        ("", (1, 3), ["<>"]),
        ("a", (1, 2), ["<a", "a", "a>"]),
        ("世界", (2, 3), ["<世", "<世界", "世界", "世界>", "界>"]),
        ("ab", (6, 6), []),
    ],
)
def test_ngrams(word, lengths, expected):
    assert ngrams(word, *lengths) == expected


NIGHT = "1585938 1573807 1261253 1379875 1403709 43215 1349473 543885 1529827 1181877 1496785 "
NIGHT += "1495034 1259020 1958757"
NAIVE = "1806890 1907692 878190 933201 1590546 1719404 832043 156687 356832 1223007 1505331 "
NAIVE += "1711570 1788548 1088654"


@pytest.mark.parametrize(
    ("word", "buckets"),
    [("night", NIGHT), ("naïve", NAIVE), ("世界", "1748749 595913 999187"), ("a", "1087600")],
)
def test_they_are_fasttexts(word, buckets):
    """Compare with the ids of `get_subwords` of fastText 0.9.3, less the number of words."""
    ids, _ = ngram_ids([word], 2_000_000)
    assert " ".join(map(str, ids)) == buckets


@pytest.mark.parametrize("word", ["night", "naïve", "世界", "a", "😀s"])
def test_they_are_gensims(word):
    inner = pytest.importorskip("gensim.models.fasttext_inner", reason="gensim is not installed")
    theirs = [inner.ft_hash_bytes(ngram) % 1000 for ngram in inner.compute_ngrams_bytes(word, 3, 6)]
    ids, _ = ngram_ids([word], 1000)
    assert sorted(ids.tolist()) == sorted(theirs)


@given(WORDS, st.sampled_from([1, 3, 1000]))
def test_bags_are_a_words_row_and_those_of_its_buckets(words, buckets):
    bags = bags_of(words, buckets, 2, 4)
    assert bags.starts.dtype == np.int64 and bags.rows.dtype == np.int32
    assert (np.diff(bags.buckets) > 0).all()
    used = {fnv(ngram) % buckets for word in words for ngram in ngrams(word, 2, 4)}
    assert set(bags.buckets.tolist()) == used
    assert bags.num_rows == len(words) + len(used)
    for i, word in enumerate(words):
        bag = bags.rows[bags.starts[i] : bags.starts[i + 1]]
        assert bag[0] == i
        of_ngrams = bags.buckets[bag[1:] - len(words)].tolist()
        assert of_ngrams == [fnv(ngram) % buckets for ngram in ngrams(word, 2, 4)]
    assert bags.starts[-1] == len(bags.rows)


def test_vectors_are_means_of_bags(rng, monkeypatch):
    monkeypatch.setattr(subwords, "BAGS_AT_A_TIME", 2)
    bags = bags_of(["banana", "ab", "b", "abé", "anna"], 5, 2, 3)
    matrix = rng.standard_normal((bags.num_rows, 4))
    found = means(matrix, bags)
    for i, (begin, end) in enumerate(itertools.pairwise(bags.starts)):
        np.testing.assert_allclose(found[i], matrix[bags.rows[begin:end]].mean(0), rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_n": 0}, "min_n=0, max_n=6: it must be 1 <= min_n <= max_n"),
        ({"min_n": 4, "max_n": 3}, "min_n=4, max_n=3"),
        ({"buckets": 0}, "buckets=0 must be from 1 to 2147483647"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ngram_ids(["cat"], **options)


def test_memory_goes_by_the_words_not_by_max_n():
    ids, offsets = ngram_ids(["cat", "at"], 1000, 2, 2**31 - 1)
    np.testing.assert_array_equal(ids, ngram_ids(["cat", "at"], 1000, 2, 6)[0])
    assert offsets.tolist() == [0, 10, 16]
    assert len(ngram_ids(["cat"], 1000, 2**31 - 1, 2**31 - 1)[0]) == 0
    with pytest.raises(ValueError, match=r"the words have 5000\d+ n-grams; at most 2147483647"):
        ngram_ids(["a" * 100_000], 1000, 1, 2**31 - 1)


@given(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))
def test_ngrams_are_counted_beforehand(letters, min_n, max_n):
    if min_n <= max_n:
        count = subwords._count_ngrams(letters + 2, min_n, max_n)
        assert count == len(ngrams("a" * letters, min_n, max_n))
