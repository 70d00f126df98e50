"""The average of matrices that were trained apart, row by row, weighted by the rows' updates."""

import numpy as np

ROWS = 4096  # averaged at a time, so that they stay in the caches


def updates(ids, tables, settings, num_rows):
    """Return how often each row is updated in a pass over some text, in expectation.

    A row of the input matrix is updated with its word, one of the output matrix with its word and
    whenever it is drawn as noise; an inner node with the words below it, and a row of subwords with
    the words that have it.

    Args:
        ids: int32 (positions,), words, and −1 at the ends of sentences.
        tables, settings: those of the training.
        num_rows: of the input matrix and of the output matrix.

    Returns:
        Two float64 arrays (rows,), in proportion to the numbers of updates.
    """
    words = len(tables.keep)
    occurrences = np.bincount(ids[ids >= 0], minlength=words) * (tables.keep / 2.0**32)
    input_updates = np.zeros(num_rows[0])
    if len(tables.bag_starts):
        each = np.repeat(occurrences, np.diff(tables.bag_starts))
        input_updates += np.bincount(tables.bag_rows, each, num_rows[0])
    else:
        input_updates[:words] = occurrences
    output_updates = np.zeros(num_rows[1])
    if len(tables.path_starts):
        each = np.repeat(occurrences, np.diff(tables.path_starts))
        output_updates += np.bincount(tables.path_nodes, each, num_rows[1])
    if len(tables.noise):
        drawn = settings.negative * occurrences.sum() * probabilities_of(tables.noise)
        output_updates[:words] += occurrences + drawn
    return input_updates, output_updates


def probabilities_of(noise):
    """Return with what probability each word is drawn from an alias table."""
    own = noise[:, 0] / 2.0**32
    return (own + np.bincount(noise[:, 1], 1 - own, len(noise))) / len(noise)


def mean_of(matrices, weights):
    """Return the weighted mean of matrices (rows, columns) with weights (rows,) each.

    A row that is the same in all stays as it is, bit for bit. One without weight gets the plain
    mean.
    """
    total = np.sum(weights, axis=0)
    shares = [
        np.divide(weight, total, out=np.full(len(total), 1 / len(weights)), where=total > 0)
        for weight in weights
    ]
    mean = np.array(matrices[0])
    for begin in range(0, len(mean), ROWS):
        rows = slice(begin, begin + ROWS)
        for matrix, share in zip(matrices[1:], shares[1:], strict=True):
            change = matrix[rows] - matrices[0][rows]
            change *= share[rows, None].astype(np.float32)
            mean[rows] += change
    return mean
