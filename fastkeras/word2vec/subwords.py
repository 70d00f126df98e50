"""The parts of words: fastText's n-grams of letters, hashed into buckets.

Bojanowski et al. 2017, Enriching Word Vectors with Subword Information (arXiv 1607.04606). A word
that training has not seen gets a vector from those of its parts that training has seen. The hashes
are fastText's own, so that its buckets can be used.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastkeras.word2vec.arguments import integer, string, strings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

__all__ = ["ngram_ids", "ngrams"]

FNV_OFFSET, FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)
WORDS_AT_A_TIME = 1 << 16
BAGS_AT_A_TIME = 1 << 12  # whose rows are copied at a time
CONTINUATION = 0x80  # the two highest bits of each byte of a UTF-8 letter but its first


def ngrams(word: str, min_n: int = 3, max_n: int = 6) -> list[str]:
    """Return the n-grams of a word's letters, with `<` before and `>` after the word.

    Args:
        word: string.
        min_n: the least number of letters.
        max_n: the greatest.

    Returns:
        List of strings by place, then by length, without a single `<` or `>`.

    Example:
        >>> from fastkeras.word2vec.subwords import ngrams
        >>> ngrams("cat", 3, 4)
        ['<ca', '<cat', 'cat', 'cat>', 'at>']
    """
    check(1, min_n, max_n)
    letters = f"<{string('word', word)}>"
    return [
        letters[begin : begin + n]
        for begin in range(len(letters))
        for n in range(min_n, min(max_n, len(letters) - begin) + 1)
        if not (n == 1 and begin in (0, len(letters) - 1))
    ]


def ngram_ids(
    words: Sequence[str], buckets: int = 2_000_000, min_n: int = 3, max_n: int = 6
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the buckets of the n-grams of many words.

    The bucket is the 32-bit FNV-1a hash of the n-gram in UTF-8, modulo `buckets`; as in fastText
    bytes from 128 up are sign-extended before they enter the hash.

    Args:
        words: sequence of strings.
        buckets: how many there are, from 1 to 2³¹ − 1.
        min_n, max_n: as in `ngrams`.

    Returns:
        `(ids, offsets)`: int32 arrays of shape (n-grams,) and (words + 1,). The n-grams of word i,
        in the order of `ngrams`, are `ids[offsets[i] : offsets[i + 1]]`, from 0 to `buckets` − 1.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> from fastkeras.word2vec.subwords import ngram_ids
        >>> ids, offsets = ngram_ids(["cat", "at"], buckets=1000, min_n=3, max_n=4)
        >>> ids[offsets[1] : offsets[2]]  # of <at, <at>, at>
        array([174, 408, 106], dtype=int32)
    """
    check(buckets, min_n, max_n)
    words = strings("words", words)
    letters = sum(map(len, words)) + 2 * len(words)
    if letters * (max_n - min_n + 1) >= 2**31:  # else there are certainly fewer
        total = sum(_count_ngrams(len(word) + 2, min_n, max_n) for word in words)
        if total >= 2**31:
            raise ValueError(f"the words have {total} n-grams; at most 2147483647 are possible")
    ids, counts = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
    for begin in range(0, len(words), WORDS_AT_A_TIME):
        hashes, of_word = _hashes(words[begin : begin + WORDS_AT_A_TIME], min_n, max_n)
        ids.append((hashes % np.uint32(buckets)).astype(np.int32))
        counts.append(of_word)
    offsets = np.cumsum(np.concatenate(counts))
    return np.concatenate(ids), offsets.astype(np.int32)


class Bags(NamedTuple):
    """Each word's bag: the rows of the input matrix whose mean is its vector.

    The first row of a bag is the word's own. In the matrix the rows of the words come first, those
    of the buckets follow; only buckets that some word uses have a row.
    """

    starts: np.ndarray  # int64 (words + 1,): where each bag begins in `rows`
    rows: np.ndarray  # int32; an n-gram that occurs twice is listed twice
    buckets: np.ndarray  # int32, ascending: the buckets of rows words, words + 1, ...

    @property
    def num_rows(self) -> int:
        """How many rows the input matrix has, for words and buckets."""
        return len(self.starts) - 1 + len(self.buckets)


def bags_of(words: Sequence[str], buckets: int = 2_000_000, min_n: int = 3, max_n: int = 6) -> Bags:
    """Return the `Bags` of the words of a vocabulary.

    Args:
        words: sequence of strings.
        buckets, min_n, max_n: as in `ngram_ids`.

    Example:
        >>> bags = bags_of(["cat", "at"], min_n=3, max_n=3)
        >>> bags.starts, bags.rows  # cat: itself, <ca, cat, at>; at: itself, <at, at>
        (array([0, 4, 7]), array([0, 4, 2, 3, 1, 5, 3], dtype=int32))
    """
    ids, offsets = ngram_ids(words, buckets, min_n, max_n)
    used, place = np.unique(ids, return_inverse=True)
    rows = np.insert((len(words) + place).astype(np.int32), offsets[:-1], np.arange(len(words)))
    return Bags(offsets.astype(np.int64) + np.arange(len(words) + 1), rows, used)


def means(matrix: NDArray[Any], bags: Bags) -> NDArray[Any]:
    """Return the vectors of the words: the mean of each bag, (words, vector size)."""
    words = len(bags.starts) - 1
    vectors = np.empty((words, matrix.shape[1]), matrix.dtype)
    for first in range(0, words, BAGS_AT_A_TIME):
        starts = bags.starts[first : first + BAGS_AT_A_TIME + 1]
        rows = matrix[bags.rows[starts[0] : starts[-1]]]
        sums = np.add.reduceat(rows, starts[:-1] - starts[0], axis=0)
        np.divide(sums, np.diff(starts)[:, None], out=vectors[first : first + BAGS_AT_A_TIME])
    return vectors


def check(buckets: int, min_n: int, max_n: int) -> None:
    """Raise ValueError if an argument is out of range."""
    if not 1 <= integer("buckets", buckets, -math.inf, None) < 2**31:
        raise ValueError(f"buckets={buckets} must be from 1 to 2147483647")
    if not 1 <= integer("min_n", min_n) <= integer("max_n", max_n):
        raise ValueError(f"min_n={min_n}, max_n={max_n}: it must be 1 <= min_n <= max_n")


def _count_ngrams(letters, min_n, max_n):
    """Count the n-grams of so many letters, `<` and `>` included."""
    longest = min(max_n, letters)
    sizes = max(longest - min_n + 1, 0)
    count = sizes * (letters + 1) - sizes * (min_n + longest) // 2
    return count - 2 * (min_n == 1)  # without `<` and `>` alone


def _hashes(words, min_n, max_n):
    """Return the hashes of the words' n-grams, and how many each word has."""
    encoded = [f"<{word}>".encode("utf-8", "surrogatepass") for word in words]
    text = np.frombuffer(b"".join(encoded), np.uint8)
    first_byte = np.flatnonzero((text & 0xC0) != CONTINUATION)  # of each letter
    end_byte = np.append(first_byte[1:], len(text))
    signed = text.view(np.int8).astype(np.int32).view(np.uint32)
    word_ends = np.cumsum([len(word) for word in encoded])
    word_of = np.searchsorted(word_ends, first_byte, "right")
    letters = len(first_byte)
    # Take memory for the longest word, not for the largest max_n that is allowed.
    longest = int(np.bincount(word_of).max(initial=1))
    max_n = min(max_n, longest)
    at_the_edge = np.ones(letters, bool)
    at_the_edge[1:-1] = (word_of[1:-1] != word_of[:-2]) | (word_of[1:-1] != word_of[2:])

    # Extend the n-grams at all places at once, letter by letter, byte by byte (one to four each).
    hashes = np.empty((letters, max_n), np.uint32)
    is_ngram = np.zeros((letters, max_n), bool)
    hash = np.full(letters, FNV_OFFSET)
    for n in range(1, max_n + 1):
        begin = np.arange(letters - n + 1)  # where n letters follow
        begin = begin[word_of[begin] == word_of[begin + n - 1]]
        last = begin + n - 1
        for byte in range(4):
            at = first_byte[last] + byte
            longer = at < end_byte[last]
            some = begin[longer]
            hash[some] = (hash[some] ^ signed[at[longer]]) * FNV_PRIME
        hashes[begin, n - 1] = hash[begin]
        is_ngram[begin, n - 1] = (n >= min_n) & ((n > 1) | ~at_the_edge[begin])
    of_word = np.bincount(word_of, is_ngram.sum(1), len(words)).astype(np.int64)
    return hashes[is_ngram], of_word
