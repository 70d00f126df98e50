"""A round: each worker trains a part of the text from the same matrices, then they are averaged."""

import math
from typing import NamedTuple

import numpy as np

from fastkeras.word2vec.distributed.averages import updates
from fastkeras.word2vec.training import engine as engines
from fastkeras.word2vec.training import sampling
from fastkeras.word2vec.training.loop import CUT
from fastkeras.word2vec.training.matrices import zero_rows
from fastkeras.word2vec.training.settings import CHUNK, Schedule

MARGIN = 64 * CHUNK  # positions beside a part that its windows can reach


class Part(NamedTuple):
    """A part of an encoded corpus.

    Attributes:
        ids: int32 (positions,): the part, and the text beside it, where contexts may lie.
        first: position in the corpus of the first of `ids`.
        begin, end: the part itself, as positions in `ids`.
    """

    ids: np.ndarray
    first: int
    begin: int
    end: int


class Work(NamedTuple):
    """What all rounds of a training have in common."""

    engine: str
    tables: object
    settings: object
    num_threads: int
    deterministic: bool


def parts_of(ids, begin, end, number):
    """Cut begin..end-1 of a corpus into at most so many parts of one size, and a shorter last one.

    `begin` is a multiple of `loop.CUT`, and so are the cuts.
    """
    size = math.ceil((end - begin) / number / CUT) * CUT
    parts = []
    for at in range(begin, end, size):
        first, to = max(at - MARGIN, 0), min(at + size, end)
        parts.append(Part(np.asarray(ids[first : to + MARGIN]), first, at - first, to - first))
    return parts


def train_part(part, matrices, work, key, schedule):
    """Train a part of the corpus, and update both matrices in place.

    What is drawn, and the learning rate, are those of the part's place in the corpus.

    Returns:
        (updates of the matrices' rows, (loss, predictions, words)).
    """
    engine = engines.engine_of({"subwords": len(work.tables.bag_starts) > 0}, work.engine)
    training, train = engines.begin(engine, part.ids, matrices, work.tables, work.settings)
    key = (key + part.first * sampling.GOLDEN) % (1 << 64)
    schedule = Schedule(schedule.learning_rate + schedule.slope * part.first, schedule.slope)
    threads = work.num_threads, work.deterministic
    tally = train(part.begin, part.end, key, schedule, *threads)
    if training is not None:
        training.fetch()
    reach = min(work.settings.window, MARGIN)  # neighbours of the part are updated too
    touched = part.ids[max(part.begin - reach, 0) : part.end + reach]
    rows = [len(matrix) for matrix in matrices]
    return updates(touched, work.tables, work.settings, rows), tally


def schedule_of_worker(schedule, rate_factor, num_workers):
    """Return the learning rate of workers whose changes are averaged: of one worker, as it is."""
    factor = min(rate_factor, num_workers)
    return Schedule(schedule.learning_rate * factor, schedule.slope * factor)


def cut(arrays, number):
    """Cut arrays into shares of their rows; return a list of arrays for each share."""
    return [list(share) for share in zip(*(np.array_split(a, number) for a in arrays), strict=True)]


def joined(shares):
    """Return new matrices, as the kernels need them, of their shares."""
    matrices = []
    for of_matrix in zip(*shares, strict=True):
        rows = sum(map(len, of_matrix))
        matrices.append(np.concatenate(of_matrix, out=zero_rows(rows, of_matrix[0].shape[1])))
    return matrices
