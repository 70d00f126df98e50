"""The words of a corpus, the most frequent first."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import numpy as np

from fastkeras._files import replacing
from fastkeras.word2vec.arguments import integer, shown, strings, whole_numbers
from fastkeras.word2vec.corpus import Corpus
from fastkeras.word2vec.corpus.text_files import BYTE_ORDER_MARK, lines_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Self

    from numpy.typing import NDArray

    from fastkeras.typing import ArrayLike, FilePath

WORDS_AT_ONCE = 20_000_000  # different ones, while they are counted


class Vocabulary:
    """Words and how often each occurs; a word's id is its place.

    Args:
        words: sequence of different strings.
        counts: as many integers, in descending order.

    Attributes:
        words: list of strings.
        counts: int64 array of shape (words,), descending. Equally frequent words are in the order
            in which the corpus first has them.
        index: dict, the id of each word.

    Raises:
        ValueError: a word occurs twice, or the counts are not descending, or not as many.

    Example:
        >>> from fastkeras.word2vec.vocabulary import Vocabulary
        >>> vocabulary = Vocabulary(["the", "cat"], [7, 2])
        >>> len(vocabulary), vocabulary.index["cat"], "dog" in vocabulary
        (2, 1, False)
    """

    def __init__(self, words: Sequence[str], counts: ArrayLike) -> None:
        self.words: list[str] = strings("words", words)
        self.counts: NDArray[np.int64] = np.array(whole_numbers("counts", counts))
        self.index: dict[str, int] = {word: i for i, word in enumerate(self.words)}
        if self.counts.shape != (len(self.words),):
            raise ValueError(f"counts has shape {self.counts.shape}, words {len(self.words)} words")
        if len(self.index) < len(self.words):
            twice = next(word for i, word in enumerate(self.words) if self.index[word] != i)
            raise ValueError(f"words has {twice!r} twice")
        if np.any(np.diff(self.counts) > 0):
            i = int(np.argmax(np.diff(self.counts) > 0)) + 1
            raise ValueError(
                f"counts must descend, but {self.counts[i]} follows {self.counts[i - 1]} at {i}"
            )

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and word in self.index

    def __repr__(self) -> str:
        return f"<Vocabulary of {len(self)} words, {int(self.counts.sum())} in the corpus>"

    def save(self, path: FilePath) -> None:
        """Write one line `word count` for each word, in UTF-8, as word2vec's `-save-vocab` does.

        Raises:
            ValueError: a word has a line feed.
        """
        for word in self.words:
            if "\n" in word:
                raise ValueError(f"{word!r} has a line feed, which the file {path} cannot hold")
        with replacing(path) as file:
            if self.words and self.words[0].startswith("\ufeff"):  # for `load` to drop
                file.write(BYTE_ORDER_MARK)
            for word, count in zip(self.words, self.counts.tolist(), strict=True):
                file.write(f"{word} {count}\n".encode())

    @classmethod
    def load(cls, path: FilePath) -> Self:
        """Read what `save` has written; ValueError names the first line of another form."""
        words, counts = [], []
        for number, line in lines_of(path):
            found = re.fullmatch(r"(.*)[ \t](\d{1,18})[ \t]*", line, re.DOTALL | re.ASCII)
            if found is None:
                raise ValueError(f"{path}, line {number}: {line.encode()!r} is not `word count`")
            words.append(found[1])
            counts.append(int(found[2]))
        try:
            return cls(words, counts)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def build(
    corpus: Any,
    min_count: int = 5,
    max_vocab: int | None = None,
    num_threads: int = 0,
    progress: Callable[[int, int | None], Any] | None = None,
    table_size: int = WORDS_AT_ONCE,
    trim_rule: Callable[[str, int], bool | None] | None = None,
) -> Vocabulary:
    """Count the words of a corpus.

    Args:
        corpus: a `Corpus`, or what one is made of.
        min_count: words that occur less often are left out.
        max_vocab: keep at most so many words, the most frequent; None keeps all.
        num_threads: of the compiled part; 0 takes all processors. The result is the same.
        progress: called as `progress(done, total)` now and then, in bytes of the files or in items
            of the iterable; `total` is None if unknown.
        table_size: how many different words are held while counting (about 60 bytes each). If
            there are more after a block of 4 MiB, those counted once are forgotten, the next time
            those counted at most twice, and so on, as word2vec does; a word that is rare up to
            there and frequent later then gets too low a count. With up to `table_size` different
            words all counts are exact.
        trim_rule: called as `trim_rule(word, count)` for each word in the end; True keeps it, False
            leaves it out, and for None `min_count` decides.

    Returns:
        A `Vocabulary`.

    Raises:
        TypeError: `trim_rule` returned something else.
        ValueError: no word is left, or an argument is not positive.

    Example:
        >>> from fastkeras.word2vec.vocabulary import build
        >>> vocabulary = build(["the cat sat", "on the mat the cat"], min_count=2)
        >>> vocabulary.words, vocabulary.counts
        (['the', 'cat'], array([3, 2]))
    """
    if max_vocab is not None:
        integer("max_vocab", max_vocab, 1, None)
    integer("min_count", min_count, 1, None)
    integer("table_size", table_size, 1, None)
    integer("num_threads", num_threads)
    for name, function in {"trim_rule": trim_rule, "progress": progress}.items():
        if function is not None and not callable(function):
            raise TypeError(f"{name}={shown(function)} must be a function")
    corpus = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
    counter = _counter(corpus)
    floor = 0
    for part, done in _parts(corpus):
        counter.add(part, num_threads)
        while len(counter) > table_size:
            floor += 1
            counter.drop(floor)
        if progress is not None:
            progress(done, corpus.size)
    words, counts = _listed(counter, min_count if trim_rule is None else 1)
    if trim_rule is not None and words:
        kept = [
            _keeps(trim_rule, *of, min_count) for of in zip(words, counts.tolist(), strict=True)
        ]
        words, counts = list(itertools.compress(words, kept)), counts[kept]
        if not words:
            raise ValueError(f"trim_rule and min_count={min_count} leave no word")
    if not words:
        all_words, all_counts = _listed(counter, 1)
        if not all_words:
            raise ValueError("corpus has no words")
        most = int(np.argmax(all_counts))
        raise ValueError(
            f"no word of the corpus comes min_count={min_count} times: of its {len(all_words)} "
            f"words {all_words[most]!r} comes most often, {all_counts[most]} times"
        )
    order = np.argsort(-counts, kind="stable")[:max_vocab]
    return Vocabulary([words[i] for i in order.tolist()], counts[order])


def _keeps(trim_rule, word, count, min_count):
    verdict = trim_rule(word, count)
    if verdict is None:
        return count >= min_count
    if not isinstance(verdict, bool):
        raise TypeError(f"trim_rule({word!r}, {count}) is {verdict!r}; it must be a bool or None")
    return verdict


class _Counter(dict):
    """`_core.WordCounter` in Python, for lists of words, and without the compiled part."""

    def add(self, words, num_threads):
        get = self.get
        for word in words.split() if isinstance(words, bytes) else words:
            self[word] = get(word, 0) + 1

    def drop(self, floor):
        kept = {word: count for word, count in self.items() if count > floor}
        self.clear()
        self.update(kept)

    def words(self, min_count):
        words = [word for word, count in self.items() if count >= min_count]
        return words, np.array([self[word] for word in words], np.int64)


def _counter(corpus):
    if corpus.is_text:
        try:
            from fastkeras._core import WordCounter

            return WordCounter()
        except ImportError:
            pass
    return _Counter()


def _listed(counter, min_count):
    words, counts = counter.words(min_count)
    if isinstance(words, bytes):
        words = words.decode().split("\n") if words else []
    return [word.decode() if isinstance(word, bytes) else word for word in words], counts


def _parts(corpus):
    """Yield `(words, done)`: blocks of text, or the words of many lists."""
    if corpus.is_text:
        yield from corpus.blocks()
        return
    words, done = [], 0
    for done, sentence in enumerate(corpus.token_lists(), 1):
        words += sentence
        if len(words) >= 1 << 17:
            yield words, done
            words = []
    if words:
        yield words, done


__all__ = ["Vocabulary", "build"]
