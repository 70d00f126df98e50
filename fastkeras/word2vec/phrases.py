"""Pairs of words that occur together more often than by chance, joined to one word: New_York.

Mikolov et al. 2013, Distributed Representations of Words and Phrases (arXiv 1310.4546), section 4;
Bouma 2009, Normalized (Pointwise) Mutual Information in Collocation Extraction.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fastkeras._files import replacing
from fastkeras.word2vec.arguments import integer, number
from fastkeras.word2vec.corpus import Corpus, encode
from fastkeras.word2vec.corpus.text_files import lines_of
from fastkeras.word2vec.vocabulary import build

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Self

    from fastkeras.typing import FilePath

THRESHOLDS = {"original": 100.0, "npmi": 0.5}
IDS_AT_A_TIME = 1 << 21


class Phrases:
    """Pairs of words to be joined.

    Args:
        scores: dict, `(first word, second word): score`.
        delimiter: what stands between the words of a joined pair.
    """

    def __init__(self, scores: Mapping[tuple[str, str], float], delimiter: str = "_") -> None:
        self.scores, self.delimiter = scores, delimiter

    def __len__(self) -> int:
        return len(self.scores)

    def join(self, words: Sequence[str]) -> list[str]:
        """Return the sentence with its phrases joined from left to right, without overlaps.

        Example:
            >>> from fastkeras.word2vec.phrases import Phrases
            >>> Phrases({("new", "york"): 1, ("york", "city"): 1}).join(["new", "york", "city"])
            ['new_york', 'city']
        """
        joined, i = [], 0
        while i < len(words):
            length = 2 if tuple(words[i : i + 2]) in self.scores else 1
            joined.append(self.delimiter.join(words[i : i + length]))
            i += length
        return joined

    def apply(self, corpus: Any) -> Iterable[list[str]]:
        """Return the corpus with its phrases joined; it can be iterated over several times.

        Args:
            corpus: a `Corpus`, or what one is made of. Sentences are joined as they are read.
        """
        return _Joined(self, _opened(corpus))

    def save(self, path: FilePath) -> None:
        """Write a line `first TAB second TAB score` for each pair; the delimiter is not saved."""
        with replacing(path) as file:
            for (first, second), score in self.scores.items():
                if set("\t\n") & set(first + second):
                    raise ValueError(f"{(first, second)!r} has a tab or line feed")
                file.write(f"{first}\t{second}\t{score!r}\n".encode())

    @classmethod
    def load(cls, path: FilePath, delimiter: str = "_") -> Self:
        """Read what `save` has written; ValueError names the first line of another form."""
        scores = {}
        for at, line in lines_of(path):
            fields = line.split("\t")
            try:
                score = float(fields[-1])
            except ValueError:
                score = math.nan
            if len(fields) != 3 or not all(fields) or math.isnan(score):
                raise ValueError(f"{path}, line {at}: {line!r} is not two words and a score")
            scores[fields[0], fields[1]] = score
        return cls(scores, delimiter)


class _Joined:
    def __init__(self, phrases, corpus):
        self.phrases, self.corpus = phrases, corpus

    def __iter__(self):
        return map(self.phrases.join, self.corpus)


def find_phrases(
    corpus: Any,
    scoring: str = "original",
    threshold: float | None = None,
    min_count: int = 5,
    delimiter: str = "_",
    num_threads: int = 0,
    table_size: int = 5_000_000,
) -> Phrases:
    """Find pairs of words that follow each other more often than by chance.

    With counts n of words and pairs, and N words in the corpus, the score of a pair (a, b) is

    - `"original"`: (n(ab) − min_count) N / (n(a) n(b)), as in word2phrase (gensim has the number of
      different words and pairs in place of N, so it needs other thresholds);
    - `"npmi"`: log(p(ab) / (p(a) p(b))) / −log p(ab), with p = n / N: 1 for words that occur only
      together, 0 for independent ones.

    Args:
        corpus: a `Corpus`, or what one is made of. It is read twice. For phrases of three or four
            words, find phrases again in `phrases.apply(corpus)`.
        scoring: `"original"` or `"npmi"`.
        threshold: pairs with a higher score are phrases; None takes 100 for `"original"`, 0.5 for
            `"npmi"`.
        min_count: rarer pairs, and pairs with a rarer word, are no phrases.
        delimiter: what stands between the words of a joined pair.
        num_threads: as in `fastkeras.word2vec.vocabulary.build`.
        table_size: how many different words, and how many different pairs, are held while counting
            (about 100 bytes each); beyond it the rarest are forgotten, as in `vocabulary.build`.

    Returns:
        `Phrases`, the highest scores first.

    Raises:
        ValueError: an argument is out of range, or the corpus has no words.

    Example:
        >>> from fastkeras.word2vec.phrases import find_phrases
        >>> corpus = ["to new york", "in new york", "new house", "is in", "to be", "to me"] * 5
        >>> phrases = find_phrases(corpus, "npmi", 0.6)
        >>> next(iter(phrases.scores))
        ('new', 'york')
        >>> next(iter(phrases.apply(corpus)))
        ['to', 'new_york']
    """
    if scoring not in THRESHOLDS:
        raise ValueError(f"scoring={scoring!r} must be one of {sorted(THRESHOLDS)}")
    integer("min_count", min_count, 1, None)
    if threshold not in (None, -math.inf):
        number("threshold", threshold)
    corpus = _opened(corpus)
    # Rare words are kept too: without them, the words around one would look like neighbours.
    vocabulary = build(corpus, 1, num_threads=num_threads, table_size=table_size)
    ids = encode(corpus, vocabulary, num_threads=num_threads)
    pairs, counts = _count_pairs(ids, len(vocabulary), table_size)
    first, second = np.divmod(pairs[counts >= min_count], len(vocabulary))
    score = _score(
        scoring,
        vocabulary.counts[first],
        vocabulary.counts[second],
        counts[counts >= min_count],
        int(vocabulary.counts.sum()),
        min_count,
    )
    chosen = np.flatnonzero(score > (THRESHOLDS[scoring] if threshold is None else threshold))
    chosen = chosen[np.argsort(-score[chosen], kind="stable")]
    words = vocabulary.words
    return Phrases(
        {(words[first[i]], words[second[i]]): float(score[i]) for i in chosen.tolist()}, delimiter
    )


def _opened(corpus):
    return corpus if isinstance(corpus, Corpus) else Corpus(corpus)


def _score(scoring, first, second, pair, total, min_count):
    if scoring == "original":
        return (pair - min_count) * (total / first / second)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.log(pair / first / second * total) / -np.log(pair / total)
    return np.where(pair == total, 1.0, score)  # the corpus has only this pair


def _count_pairs(ids, num_words, table_size):
    """Count neighbours in a sentence: sorted int64 codes `first * num_words + second`, counts."""
    pairs = counts = np.empty(0, np.int64)
    floor = 0
    for begin in range(0, len(ids), IDS_AT_A_TIME):
        part = np.asarray(ids[begin : begin + IDS_AT_A_TIME + 1], np.int64)
        within = (part[:-1] >= 0) & (part[1:] >= 0)
        more, of_more = np.unique(
            part[:-1][within] * num_words + part[1:][within], return_counts=True
        )
        both, place = np.unique(np.concatenate([pairs, more]), return_inverse=True)
        sums = np.zeros(len(both), np.int64)
        sums[place[: len(pairs)]] += counts
        sums[place[len(pairs) :]] += of_more
        pairs, counts = both, sums
        while len(pairs) > table_size:
            floor += 1
            pairs, counts = pairs[counts > floor], counts[counts > floor]
    return pairs, counts
