"""A round: each worker trains a part of the text from the same matrices; then they become one."""

import math
import socket
from typing import NamedTuple

import numpy as np

import fastkeras
from fastkeras.word2vec.distributed.averages import combined, updates
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
    """What all rounds of a training have in common.

    Attributes:
        engine: its name.
        tables, settings: those of the model.
        rate_factor: by which the learning rate of two or more workers is multiplied, at most by
            their number.
        way: how far one update moves a row at a learning rate of 1; see `averages.combined`.
        num_threads, deterministic: of each worker.
        version: of the package.
    """

    engine: str
    tables: object
    settings: object
    rate_factor: float
    way: float
    num_threads: int
    deterministic: bool
    version: str = fastkeras.__version__


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


def schedule_of_worker(schedule, rate_factor, num_workers):
    """Return the learning rate of so many workers: of one worker, as it is."""
    factor = min(rate_factor, num_workers)
    return Schedule(schedule.learning_rate * factor, schedule.slope * factor)


def train_part(part, matrices, work, key, schedule):
    """Train a part of the corpus, and update both matrices in place.

    What is drawn, and the learning rate, are those of the part's place in the corpus.

    Returns:
        (the ways of the matrices' rows, as in `averages.combined`; (loss, predictions, words)).

    Raises:
        ImportError: the engine is missing on this machine.
        ValueError: another version of the package is installed here.
    """
    if work.version != fastkeras.__version__:
        raise ValueError(
            f"the worker on {socket.gethostname()} has fastkeras {fastkeras.__version__}, the "
            f"calling process {work.version}: install one version on all machines"
        )
    try:
        engine = engines.engine_of({"subwords": len(work.tables.bag_starts) > 0}, work.engine)
    except ImportError as error:
        raise ImportError(f"the worker on {socket.gethostname()}: {error}") from error
    training, train = engines.begin(engine, part.ids, matrices, work.tables, work.settings)
    key = (key + part.first * sampling.GOLDEN) % (1 << 64)
    schedule = Schedule(schedule.learning_rate + schedule.slope * part.first, schedule.slope)
    threads = work.num_threads, work.deterministic
    tally = train(part.begin, part.end, key, schedule, *threads)
    if training is not None:
        training.fetch()
    reach = min(work.settings.window, MARGIN)  # neighbours of the part are updated too
    touched = part.ids[max(part.begin - reach, 0) : part.end + reach]
    rate = schedule.learning_rate + schedule.slope * (part.begin + part.end) / 2
    rows = [len(matrix) for matrix in matrices]
    of_rows = updates(touched, work.tables, work.settings, rows)
    return [work.way * rate * of_matrix for of_matrix in of_rows], tally


def train_shares(part, work, key, schedule, shares):
    """Train a part from the shares of both matrices.

    Returns:
        The tally, and a list of (matrices, ways) of each share.
    """
    number = len(shares)
    matrices = joined(shares)
    ways, tally = train_part(part, matrices, work, key, schedule)
    return tally, list(zip(cut(matrices, number), cut(ways, number), strict=True))


def combine_share(before, trained, rate_factor):
    """Return a share of both matrices, of what it was and of the workers' (matrices, ways)."""
    factor = min(rate_factor, len(trained))
    matrices, ways = (list(zip(*of_all, strict=True)) for of_all in zip(*trained, strict=True))
    return [combined(*of_matrix, factor) for of_matrix in zip(before, matrices, ways, strict=True)]


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
