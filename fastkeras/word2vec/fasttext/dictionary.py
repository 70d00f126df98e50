"""The words of fastText's models, and the n-grams that each has."""

import warnings

import numpy as np

from fastkeras.word2vec.arguments import choice
from fastkeras.word2vec.subwords import Bags, ngram_ids

END_OF_LINE = "</s>"  # fastText's own word, the only one without n-grams


def words_of(contents, limit, errors, path):
    """Return words as strings, each once, and their rows."""
    choice("errors", errors, ("strict", "replace"))
    first = {}
    for row, word in enumerate(contents.words[:limit]):
        try:
            first.setdefault(word.decode("utf-8", errors), row)
        except UnicodeDecodeError:
            raise ValueError(
                f"{path}: word {row} is not UTF-8: {word[:60]!r}; errors='replace' reads it all "
                "the same"
            ) from None
    repeated = len(contents.words[:limit]) - len(first)
    if repeated:
        warnings.warn(
            f"{path} has {repeated} words again, whose first vectors are kept", stacklevel=3
        )
    return list(first), np.fromiter(first.values(), np.int64, len(first))


def lengths_of(contents):
    """Return `(buckets, least letters, most letters)` of the n-grams, None without any."""
    given = contents.arguments
    min_n, max_n = max(given["minn"], 1), given["maxn"]
    has_none = max_n < min_n or (contents.pruned is not None and not len(contents.pruned))
    return None if has_none else (given["bucket"], min_n, max_n)


def bags_of_file(contents, words, kept, lengths):
    """Return the `Bags` of the words, in rows of the file's input matrix."""
    ids, offsets = ngram_ids(words, *lengths)
    word_of = np.repeat(np.arange(len(words)), np.diff(offsets))
    counted = np.ones(len(ids), bool)
    if END_OF_LINE in words:
        counted = word_of != words.index(END_OF_LINE)
    rows = ids.astype(np.int64)
    if contents.pruned is not None:
        order = np.argsort(contents.pruned[:, 0])
        buckets, places = contents.pruned[order].T
        at = np.minimum(np.searchsorted(buckets, ids), len(buckets) - 1)
        counted &= buckets[at] == ids
        rows = places[at].astype(np.int64)
    counts = np.bincount(word_of[counted], minlength=len(words))
    ends = np.cumsum(counts)
    rows = np.insert(len(contents.words) + rows[counted], ends - counts, kept)
    starts = np.concatenate([[0], ends + np.arange(1, len(words) + 1)])
    return Bags(starts, rows, np.zeros(0, np.int32))
