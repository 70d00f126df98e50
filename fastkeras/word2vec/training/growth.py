"""New words, and rows for them, in a trained model; all words are sorted by their counts again."""

import numpy as np

from fastkeras.word2vec.training.matrices import draw, zero_rows

NEW = -1  # stands for a row that did not exist


def check_tree(loss, known, found):
    """Raise ValueError if there are new words: the hierarchical softmax cannot take any."""
    fresh = sum(word not in known for word in found.words)
    if fresh:
        raise ValueError(
            f"loss={loss!r} cannot take {fresh} new words, its tree is fixed: pass new_words=False"
        )


def merged(known, found):
    """Return the vocabulary of both, and for each of its words the row in `known`, or `NEW`.

    Words have to be in the order of their counts, so the old ones move too.
    """
    fresh = [i for i, word in enumerate(found.words) if word not in known]
    words = [*known.words, *(found.words[i] for i in fresh)]
    counts = np.concatenate([known.counts, np.asarray(found.counts)[fresh]])
    for word, count in zip(found.words, found.counts, strict=True):
        if word in known:
            counts[known.index[word]] += count
    order = np.argsort(-counts, kind="stable")
    vocabulary = type(known)([words[i] for i in order], counts[order])
    return vocabulary, np.where(order < len(known), order, NEW)


def with_buckets(order, old, new):
    """Return the old row of each input row, or `NEW`: first for the words, then for the buckets.

    Args:
        order: of the words, from `merged`.
        old, new: `subwords.Bags` of both vocabularies; the new one has all buckets of the old.
    """
    place = np.searchsorted(old.buckets, new.buckets)
    place[~np.isin(new.buckets, old.buckets)] = NEW
    place[place >= 0] += len(old.starts) - 1
    return np.concatenate([order, place])


def grown(matrices, orders, vector_size, seed):
    """Return copies of input and output matrix; row i of a copy is row orders[.][i] of the old.

    New rows are random in the input matrix, zeros in the output matrix, as in `matrices.new`.
    """
    copies = []
    for matrix, order in zip(matrices, orders, strict=True):
        rows = zero_rows(len(order), matrix.shape[1])
        rows[order >= 0] = matrix[order[order >= 0]]
        copies.append(rows)
    is_new = orders[0] < 0
    fresh = np.zeros((int(is_new.sum()), vector_size), np.float32)
    draw(fresh, seed)
    copies[0][is_new, :vector_size] = fresh
    return copies
