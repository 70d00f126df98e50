"""Words that occur together more often than by chance, joined to one: New_York, bank_of_america.

Mikolov et al. 2013, Distributed Representations of Words and Phrases (arXiv 1310.4546), section 4;
Bouma 2009, Normalized (Pointwise) Mutual Information in Collocation Extraction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fastkeras._files import replacing
from fastkeras.word2vec.arguments import integer, number, shown, string, strings
from fastkeras.word2vec.corpus import Corpus, encode
from fastkeras.word2vec.corpus.text_files import lines_of
from fastkeras.word2vec.vocabulary import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Self

    from fastkeras.typing import FilePath

THRESHOLDS = {"original": 100.0, "npmi": 0.5}
ENGLISH_CONNECTOR_WORDS = frozenset(
    ("a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with",
     "without")
)  # fmt: skip
IDS_AT_A_TIME = 1 << 21


class Phrases:
    """Words to be joined.

    Args:
        scores: dict, `(first word, second word): score`; with connector words `(first, *between,
            last): score`.
        delimiter: what stands between the words of a joined phrase.

    Raises:
        TypeError: `scores` is no dict of tuples of words, or `delimiter` no string.

    Example:
        >>> from fastkeras.word2vec.phrases import Phrases
        >>> Phrases({("new", "york"): 0.9}).join(["to", "new", "york"])
        ['to', 'new_york']
    """

    def __init__(self, scores: Mapping[tuple[str, ...], float], delimiter: str = "_") -> None:
        if not isinstance(scores, Mapping):
            raise TypeError(f"scores={shown(scores)} must be a dict of phrases and their scores")
        for phrase in scores:
            is_tuple = isinstance(phrase, tuple) and len(phrase) > 1
            if not (is_tuple and all(isinstance(word, str) for word in phrase)):
                raise TypeError(f"scores has {shown(phrase)}, which is no tuple of two words")
        self.scores, self.delimiter = scores, string("delimiter", delimiter)
        self._first = {phrase[0] for phrase in scores}
        self._between = {word for phrase in scores for word in phrase[1:-1]}

    def __len__(self) -> int:
        return len(self.scores)

    def join(self, words: Sequence[str]) -> list[str]:
        """Return the sentence with its phrases joined from left to right, without overlaps.

        Example:
            >>> from fastkeras.word2vec.phrases import Phrases
            >>> Phrases({("new", "york"): 1, ("york", "city"): 1}).join(["new", "york", "city"])
            ['new_york', 'city']
        """
        return self._join(strings("words", words))

    def _join(self, words):
        joined, i = [], 0
        while i < len(words):
            length = self._length(words, i) if words[i] in self._first else 1
            joined.append(self.delimiter.join(words[i : i + length]))
            i += length
        return joined

    def _length(self, words, begin):
        for end in range(begin + 2, len(words) + 1):
            if tuple(words[begin:end]) in self.scores:
                return end - begin
            if words[end - 1] not in self._between:
                break
        return 1

    def apply(self, corpus: Any) -> Iterable[list[str]]:
        """Return the corpus with its phrases joined; it can be iterated over several times.

        Args:
            corpus: a `Corpus`, or what one is made of. Sentences are joined as they are read.
        """
        return _Joined(self, _opened(corpus))

    def save(self, path: FilePath) -> None:
        """Write a line `first TAB second TAB score` for each phrase; the delimiter is not saved.

        Raises:
            ValueError: a word has a tab or a line feed.
        """
        with replacing(path) as file:
            for phrase, score in self.scores.items():
                if set("\t\n") & set("".join(phrase)):
                    raise ValueError(f"{phrase!r} has a tab or line feed")
                file.write("\t".join([*phrase, f"{score!r}\n"]).encode())

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
            if len(fields) < 3 or not all(fields) or math.isnan(score):
                raise ValueError(f"{path}, line {at}: {line!r} is not two words and a score")
            scores[tuple(fields[:-1])] = score
        return cls(scores, delimiter)


class _Joined:
    def __init__(self, phrases, corpus):
        self.phrases, self.corpus = phrases, corpus

    def __iter__(self):
        return map(self.phrases._join, self.corpus)


def find_phrases(
    corpus: Any,
    scoring: str | Callable[..., Any] = "original",
    threshold: float | None = None,
    min_count: int = 5,
    delimiter: str = "_",
    num_threads: int = 0,
    table_size: int = 5_000_000,
    connector_words: Iterable[str] = (),
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
        scoring: `"original"`, `"npmi"`, or a function `scoring(first, second, pair, total,
            min_count)` of arrays of counts of the words and their pairs, the words in the corpus,
            and `min_count`, which returns an array of scores; nan is no phrase.
        threshold: pairs with a higher score are phrases; None takes 100 for `"original"`, 0.5 for
            `"npmi"`; a function needs one.
        min_count: rarer pairs, and pairs with a rarer word, are no phrases.
        delimiter: what stands between the words of a joined pair.
        num_threads: as in `fastkeras.word2vec.vocabulary.build`.
        table_size: how many different words, and how many different pairs, are held while counting
            (about 100 bytes each); beyond it the rarest are forgotten, as in `vocabulary.build`.
        connector_words: words that may stand inside of a phrase but not at its ends, such as
            `ENGLISH_CONNECTOR_WORDS`: `bank of america`. The pair is then of the words around
            them, and n(ab) counts that phrase. They belong to no other phrase.

    Returns:
        `Phrases`, the highest scores first.

    Raises:
        TypeError: `connector_words` is a string, or has something else than strings.
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
    if callable(scoring):
        if threshold is None:
            raise ValueError("threshold=None must be a number, since scoring is a function")
    elif not isinstance(scoring, str) or scoring not in THRESHOLDS:
        raise ValueError(
            f"scoring={shown(scoring)} must be one of {sorted(THRESHOLDS)}, or a function"
        )
    elif threshold is None:
        threshold = THRESHOLDS[scoring]
    integer("min_count", min_count, 1, None)
    string("delimiter", delimiter)
    if not (isinstance(threshold, float) and threshold == -math.inf):
        number("threshold", threshold)
    connectors = {*strings("connector_words", connector_words)}
    corpus = _opened(corpus)
    # Rare words are kept too: without them, the words around one would look like neighbours.
    vocabulary = build(corpus, 1, num_threads=num_threads, table_size=table_size)
    ids = encode(corpus, vocabulary, num_threads=num_threads)
    words = vocabulary.words
    between = np.array([word in connectors for word in words] + [False])  # the last: of id −1
    pairs, counts, links = _count_pairs(ids, between, table_size)
    pairs, counts = pairs[counts >= min_count], counts[counts >= min_count]
    link, pairs = np.divmod(pairs, len(words) ** 2)
    first, second = np.divmod(pairs, len(words))
    of_words = vocabulary.counts[first], vocabulary.counts[second]
    score = _score(scoring, *of_words, counts, int(vocabulary.counts.sum()), min_count)
    chosen = np.flatnonzero(score > threshold)
    chosen = chosen[np.argsort(-score[chosen], kind="stable")]
    return Phrases(
        {
            tuple(words[id] for id in (first[i], *links[link[i]], second[i])): float(score[i])
            for i in chosen.tolist()
        },
        delimiter,
    )


def _opened(corpus):
    return corpus if isinstance(corpus, Corpus) else Corpus(corpus)


def _score(scoring, first, second, pair, total, min_count):
    if callable(scoring):
        score = np.asarray(scoring(first, second, pair, total, min_count), np.float64)
        if score.shape != pair.shape:
            raise ValueError(
                f"scoring returned an array of shape {score.shape}; it must have a score for each "
                f"pair, {pair.shape}"
            )
        return score
    if scoring == "original":
        return (pair - min_count) * (total / first / second)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.log(pair / first / second * total) / -np.log(pair / total)
    return np.where(pair == total, 1.0, score)  # the corpus has only this pair


def _count_pairs(ids, between, table_size):
    """Count pairs of words of a sentence that only connectors separate.

    Args:
        ids: int32 (positions,), −1 after each sentence.
        between: bool (words + 1,), which words are connectors.
        table_size: as in `find_phrases`.

    Returns:
        Sorted int64 codes `(link * words + first) * words + second`, their counts, and the list of
        links: tuples of the connectors between two words, the first of them empty.
    """
    pairs = counts = np.empty(0, np.int64)
    num_words = len(between) - 1
    links = {(): 0}
    floor = begin = 0
    while begin < len(ids) - 1:
        size = IDS_AT_A_TIME
        while True:
            part = np.asarray(ids[begin : begin + size + 1], np.int64)
            places = np.flatnonzero(~between[part])
            if len(places) > 1 or begin + len(part) == len(ids):
                break
            size *= 2  # connectors only
        begin += int(places[-1]) if len(places) > 1 else len(part)
        both_words = (part[places[:-1]] >= 0) & (part[places[1:]] >= 0)
        left, right = places[:-1][both_words], places[1:][both_words]
        link = _links(part, left, right, links)
        if len(links) * num_words**2 >= 2**63:
            raise ValueError(
                f"connector_words: there are {len(links)} sequences of them, too many beside "
                f"{num_words} words; name fewer"
            )
        more, of_more = np.unique(
            (link * num_words + part[left]) * num_words + part[right], return_counts=True
        )
        both, place = np.unique(np.concatenate([pairs, more]), return_inverse=True)
        sums = np.zeros(len(both), np.int64)
        sums[place[: len(pairs)]] += counts
        sums[place[len(pairs) :]] += of_more
        pairs, counts = both, sums
        while len(pairs) > table_size:
            floor += 1
            pairs, counts = pairs[counts > floor], counts[counts > floor]
    return pairs, counts, list(links)


def _links(part, left, right, links):
    """Return the number of what stands between two places each; `links` gets what is new."""
    link = np.zeros(len(left), np.int64)
    lengths = right - left - 1
    for length in np.unique(lengths[lengths > 0]).tolist():
        at = np.flatnonzero(lengths == length)
        rows = part[left[at, None] + 1 + np.arange(length)]
        different, which = np.unique(rows, axis=0, return_inverse=True)
        numbers = [links.setdefault(tuple(row), len(links)) for row in different.tolist()]
        link[at] = np.array(numbers)[which.ravel()]
    return link
