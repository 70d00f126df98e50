"""What an engine gets: the settings of a pass, and the tables of a vocabulary."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from fastkeras.word2vec.training import sampling

CHUNK = 1024  # positions that share a learning rate
BLOCK, BLOCKS_IN_ROUND = 64, 8  # of a deterministic pass
OBJECTIVES = ("skipgram", "cbow")
TREE, BOTH = "hierarchical_softmax", "hierarchical_softmax_and_negative_sampling"
LOSSES = ("negative_sampling", TREE, "sampled_softmax", BOTH)


class Settings(NamedTuple):
    """The settings of a model, as checked by `Word2Vec`."""

    objective: str = "skipgram"
    loss: str = "negative_sampling"
    window: int = 5
    negative: int = 5
    shared_negatives: bool = False  # one set for a window of skip-gram
    exact_cbow: bool = True  # a context row gets its share of the error, not all of it
    shrink_windows: bool = True
    exact_subwords: bool = True  # a row of a bag gets its share of the error, not all of it
    documents_alone: bool = False  # predict a word from its document, not from its neighbours
    frozen: bool = False  # update documents only


@dataclass(frozen=True, eq=False)
class Tables:
    """The tables of a vocabulary; those that its loss does not need are empty."""

    keep: np.ndarray  # uint32 (words,)
    noise: np.ndarray  # uint32 (words, 2)
    logit_offsets: np.ndarray  # float32 (words,): added to the logit of a word drawn
    path_starts: np.ndarray  # int64 (words + 1,)
    path_nodes: np.ndarray  # int32
    path_signs: np.ndarray  # float32
    # With subwords: (words + 1,), where the input rows of each word begin in `bag_rows`.
    bag_starts: np.ndarray = field(default_factory=partial(np.zeros, 0, np.int64))
    bag_rows: np.ndarray = field(default_factory=partial(np.zeros, 0, np.int32))

    def __iter__(self):
        return iter(vars(self).values())


class Documents(NamedTuple):
    """Vectors of documents, inputs beside those of words.

    Attributes:
        rows: int32 (positions,), the row of each position's document.
        vectors: float32 (documents, padded vector size), updated in place.
    """

    rows: np.ndarray
    vectors: np.ndarray


class Schedule(NamedTuple):
    """The learning rate: linear in the position, but constant within a chunk."""

    learning_rate: float
    slope: float


def tables_of(counts, settings, sample=0.0, ns_exponent=0.75, sampling_correction=False, bags=None):
    """Make the tables of a vocabulary.

    Args:
        counts: int64 (words,), descending.
        settings: `Settings`.
        sample, ns_exponent, sampling_correction: as in `Word2Vec`.
        bags: `subwords.Bags` of the words, or None.

    Returns:
        `Tables`.
    """
    counts = np.asarray(counts)
    noise, offsets = np.zeros((0, 2), np.uint32), np.zeros(0, np.float32)
    paths = np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
    if settings.loss in (TREE, BOTH):
        starts, nodes, signs = sampling.huffman_paths(counts)
        paths = starts, nodes + np.int32(first_node(len(counts), settings)), signs
    if settings.loss != TREE:
        weights = np.maximum(counts, 1).astype(np.float64) ** ns_exponent
        noise = sampling.alias_table(weights)
    if settings.loss == "sampled_softmax":
        offsets = np.zeros(len(counts), np.float32)
        if sampling_correction:
            offsets[:] = -np.log(max(settings.negative, 1) * weights / weights.sum())
    tables = Tables(sampling.keep_thresholds(counts, sample), noise, offsets, *paths)
    return tables if bags is None else replace(tables, bag_starts=bags.starts, bag_rows=bags.rows)


def sample_of(sample, num_words):
    """Return `Word2Vec`'s `sample`, where None depends on how many words there are."""
    return max(1e-4, 10 / num_words) if sample is None else sample


def reach_of(ids, window, begin=0, end=None):
    """Return how far windows can reach: `window`, or less if all sentences are shorter.

    Memory is taken for this, so that `window` may be as large as an int can be.
    """
    if window <= CHUNK:
        return window  # so small that the sentences need not be read
    end = len(ids) if end is None else end
    first = max(begin - window, 0)
    last = min(end + window, len(ids))
    longest, length = 1, 0  # a sentence may go on from one part to the next
    for at in range(first, last, 1 << 20):
        part = np.asarray(ids[at : min(at + (1 << 20), last)])
        ends = np.flatnonzero(part < 0)
        if not len(ends):
            length += len(part)
            continue
        longest = max(longest, length + int(ends[0]), int(np.diff(ends).max(initial=1)) - 1)
        length = len(part) - 1 - int(ends[-1])
        longest = max(longest, length)
    return min(max(longest - 1, length - 1, 1), window)


def output_rows(num_words, settings):
    """Return how many rows the output matrix has: one for each word, each inner node, or both."""
    inner = max(num_words - 1, 1) if settings.loss in (TREE, BOTH) else 0
    return inner if settings.loss == TREE else num_words + inner


def first_node(num_words, settings):
    """Return the output row of the first inner node: with both losses they follow the words."""
    return num_words if settings.loss == BOTH else 0


def padded(vector_size):
    """Return the length of a row: whole cache lines."""
    return -(-vector_size // 16) * 16
