"""How the changes of matrices that were trained apart make one matrix, row by row."""

import numpy as np

MOST = 2  # times the mean of the changes
ROWS = 4096  # combined at a time, so that they stay in the caches


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


def combined(before, trained, ways, rate_factor):
    """Return a matrix with the changes of all workers, whose learning rate was multiplied.

    Where all N have moved a row far, it gets the mean of the changes. The other end are rows that
    few updates have moved: the changes of all, one after the other, would be their sum, and so they
    should get the sum divided by the factor F of the rate, where that is not too far. Between the
    two lies how far workers go apart and together, if an update goes a part of the way: a row gets
    the sum times

        (1 − exp(−Σ u)) / Σ (1 − exp(−u)) / F,

    but no less than the mean, which it is if F is N, and no more than twice the mean, which goes no
    farther beyond a place than it was away from it.

    Args:
        before: float32 (rows, columns), from which all workers began.
        trained: list of N such matrices, one of each worker.
        ways: list of arrays (rows,), the u of each worker.
        rate_factor: F, 1 to N.
    """
    apart = -np.expm1(-np.asarray(ways)).sum(axis=0)
    together = -np.expm1(-np.sum(ways, axis=0))
    shares = np.divide(together, apart, out=np.ones(len(apart)), where=apart > 0) / rate_factor
    mean = 1 / len(trained)
    shares = np.clip(shares, mean, min(MOST * mean, 1)).astype(np.float32)[:, None]
    first, *others = trained
    result = np.array(first)
    for begin in range(0, len(result), ROWS):
        rows = slice(begin, begin + ROWS)
        # from the first worker, so that its bits stay where there is no other
        result[rows] += (shares[rows] - 1) * (first[rows] - before[rows])
        for matrix in others:
            result[rows] += shares[rows] * (matrix[rows] - before[rows])
    return result
