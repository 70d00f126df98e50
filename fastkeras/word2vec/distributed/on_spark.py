"""Rounds as jobs of Spark, which runs a task again if its executor or its worker was lost.

A job has two stages. Tasks of the first train a part of the text each, and the shuffle brings their
shares of rows together; tasks of the second make one of each share. Both matrices are broadcast,
and come back in shares.
"""

import os
import sys
from contextlib import suppress
from functools import partial
from operator import itemgetter

import numpy as np

from fastkeras.word2vec.distributed.rounds import combine_share, cut, train_shares
from fastkeras.word2vec.distributed.training import LostError

SHARE = 1 << 28  # bytes of a share, at most: an array of Java has less than 2 GiB
UNITS = {"k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


class Workers:
    """The workers of `training.Training`, in the active session of Spark or in a new one."""

    NAME = "spark"

    def __init__(self):
        try:
            from py4j.protocol import Py4JError
            from pyspark.errors import PySparkException
            from pyspark.sql import SparkSession
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "training on Spark needs PySpark and Java: pip install 'fastkeras[spark]'"
            ) from error
        if SparkSession.getActiveSession() is None:
            # Workers on this machine are of this Python, unless the user names another.
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        self.context = SparkSession.builder.getOrCreate().sparkContext
        self.errors = Py4JError, PySparkException, ConnectionError  # the last: Java has ended
        self.work = None  # broadcast

    def processors(self, num_threads, num_workers):
        """Return how many processors a task has."""
        has = int(self.context.getConf().get("spark.task.cpus", "1"))
        if num_threads > has:
            raise ValueError(
                f"num_threads={num_threads} of each worker: Spark gives a task {has}; begin the "
                f"session with spark.task.cpus={num_threads}"
            )
        return num_threads or has

    def round(self, parts, matrices, work, key, schedule):
        size = sum(matrix.nbytes for matrix in matrices)
        limit = self.context.getConf().get("spark.driver.maxResultSize", "1g")
        if 0 < bytes_of(limit) < size:
            raise ValueError(
                f"both matrices have {size / 2**30:.1f} GiB, and spark.driver.maxResultSize is "
                f"{limit}: begin the session with more, or with 0"
            )
        number = max(len(parts), -(-size // SHARE))
        shares = None
        try:
            if self.work is None:
                self.work = self.context.broadcast(work)
            shares = self.context.broadcast(cut(matrices, number))
            train = partial(train_task, shares, self.work, key, schedule)
            trained = self.context.parallelize(list(enumerate(parts)), len(parts)).flatMap(train)
            combine = partial(combine_task, shares, work.rate_factor)
            made = trained.groupByKey(number).map(combine).collect()
        except self.errors as error:
            raise LostError((str(error).strip() or repr(error)).splitlines()[0]) from error
        finally:
            self._destroy(shares)
        failed = [result for _, result, _ in made if isinstance(result, Exception)]
        if failed:
            raise failed[0]
        made.sort(key=itemgetter(0))
        of_matrices = zip(*(of_share for _, of_share, _ in made), strict=True)
        for matrix, of_matrix in zip(matrices, of_matrices, strict=True):
            np.concatenate(of_matrix, out=matrix)
        return made[0][2]

    def close(self):
        """Let Spark free what it holds for the training."""
        self._destroy(self.work)
        self.work = None

    def _destroy(self, broadcast):
        with suppress(*self.errors):  # with Java or its session all is gone
            if broadcast is not None:
                broadcast.destroy()


def train_task(shares, work, key, schedule, numbered):
    """Yield (number of a share, (number of the part, what was trained of the share, tally)).

    An error of the training is a result, so that Spark does not try it again.
    """
    number, part = numbered
    try:
        tally, trained = train_shares(part, work.value, key, schedule, shares.value)
    except Exception as error:
        trained, tally = [error] * len(shares.value), None
    for share, of_share in enumerate(trained):
        yield share, (number, of_share, tally)


def combine_task(shares, rate_factor, trained_of_share):
    """Return (number of the share, its matrices or an error, tallies of the parts)."""
    share, results = trained_of_share
    _, trained, tallies = zip(*sorted(results, key=itemgetter(0)), strict=True)
    failed = [result for result in trained if isinstance(result, Exception)]
    if failed:
        return share, failed[0], tallies
    return share, combine_share(shares.value[share], trained, rate_factor), tallies


def bytes_of(text):
    """Return the number of bytes of a size as Spark's settings have it, such as "1g"."""
    text = text.strip().lower().removesuffix("b")
    unit = UNITS.get(text[-1:], 0)
    return int(text[:-1] if unit else text) << unit
