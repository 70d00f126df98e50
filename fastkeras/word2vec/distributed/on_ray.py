"""Rounds as tasks of Ray, which runs a task again if its worker was killed.

The tasks have no state. Each trains a part of the text and returns the matrices, cut into one share
of rows for each worker; further tasks average a share each. So a worker sends and receives each
matrix about twice in a round, however many workers there are.
"""

import warnings

import numpy as np

from fastkeras.word2vec.distributed.averages import mean_of
from fastkeras.word2vec.distributed.rounds import (
    Work,
    cut,
    joined,
    parts_of,
    schedule_of_worker,
    train_part,
)
from fastkeras.word2vec.training.loop import CUT

TRIALS = 5  # of a round whose workers were lost, beyond what Ray itself runs again


class Training:
    """A training of `training/engine.py` whose slices are rounds of Ray's workers.

    Args:
        ray: the module.
        engine: the name of the workers' engine.
        num_workers, words_between: parts of a round, and their length, rounded up to
            `loop.CUT`.
        rate_factor: by which the learning rate of two or more workers is multiplied.
        ids, inputs, outputs, tables, settings: as in an engine's `train`. The matrices are those of
            the last average after each round.
    """

    def __init__(
        self, ray, engine, num_workers, words_between, rate_factor,
        ids, inputs, outputs, tables, settings,
    ):  # fmt: skip
        self.ray, self.engine, self.num_workers = ray, engine, num_workers
        self.rate_factor = rate_factor
        self.block = num_workers * -(-words_between // CUT) * CUT
        self.ids, self.matrices = ids, (inputs, outputs)
        self.tables, self.settings = tables, settings
        self.work = self.threads = None
        self.shares = None  # references to the last averages, where workers have them

    def fetch(self):
        """Do nothing: the matrices are here after each round."""

    def train(self, begin, end, key, schedule, num_threads, deterministic):
        """Train a slice in one round, which is done again if its workers are lost."""
        if self.work is None:
            self.threads = threads_of(self.ray, num_threads, self.num_workers)
            of_model = self.engine, self.tables, self.settings
            self.work = self.ray.put(Work(*of_model, self.threads, deterministic))
        parts = parts_of(self.ids, begin, end, self.num_workers)
        schedule = schedule_of_worker(schedule, self.rate_factor, len(parts))
        for trial in range(TRIALS):
            try:
                return self._round(parts, key, schedule)
            except self.ray.exceptions.RayTaskError:
                raise  # an error of the task itself
            except self.ray.exceptions.RayError as error:
                lost, self.shares = error, None
                warnings.warn(f"round {trial + 1} at {begin} was lost: {error}", stacklevel=2)
        raise RuntimeError(
            f"Ray lost the workers of a round {TRIALS} times. The model is that of position "
            f"{begin}; resume_with_ray goes on from there"
        ) from lost

    def _round(self, parts, key, schedule):
        number = self.num_workers
        if self.shares is None:
            self.shares = [self.ray.put(share) for share in cut(self.matrices, number)]
        train = self.ray.remote(num_cpus=self.threads, num_returns=1 + number)(train_shares)
        average = self.ray.remote(average_share)
        tasks = [train.remote(p, self.work, key, schedule, number, *self.shares) for p in parts]
        tallies, *trained = zip(*tasks, strict=True)
        shares = [average.remote(*of_share) for of_share in trained]
        averaged = self.ray.get(shares)
        tally = [sum(column) for column in zip(*self.ray.get(list(tallies)), strict=True)]
        for matrix, of_matrix in zip(self.matrices, zip(*averaged, strict=True), strict=True):
            np.concatenate(of_matrix, out=matrix)
        self.shares = shares
        return tally[0], int(tally[1]), int(tally[2])


def threads_of(ray, num_threads, num_workers):
    """Return how many processors each worker takes: as asked, or its part of the cluster's."""
    machines = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    machines = [int(processors) for processors in machines if processors >= 1]
    if not machines or num_threads > max(machines):
        raise ValueError(
            f"num_threads={num_threads} of each worker: the machines of Ray have at most "
            f"{max(machines, default=0)} processors"
        )
    return num_threads or max(1, min(sum(machines) // num_workers, *machines))


def train_shares(part, work, key, schedule, number, *shares):
    """Train a part. Return the tally, and (matrices, updates of their rows) for each share."""
    matrices = joined(shares)
    updates, tally = train_part(part, matrices, work, key, schedule)
    return tally, *zip(cut(matrices, number), cut(updates, number), strict=True)


def average_share(*trained):
    """Return the averages of a share's matrices."""
    matrices, updates = zip(*trained, strict=True)
    by_matrix = zip(zip(*matrices, strict=True), zip(*updates, strict=True), strict=True)
    return [mean_of(*of_matrix) for of_matrix in by_matrix]
