"""Rounds as tasks of Ray, which runs a task again if its worker was killed.

The tasks have no state. Each trains a part of the text and returns the matrices, cut into one share
of rows for each worker; further tasks make one of each share. So a worker sends and receives each
matrix about twice in a round, however many workers there are.
"""

import numpy as np

from fastkeras.word2vec.distributed.rounds import combine_share, cut, train_shares
from fastkeras.word2vec.distributed.training import LostError


class Workers:
    """The workers of `training.Training`, on this machine or on the cluster that Ray knows."""

    NAME = "ray"

    def __init__(self):
        try:
            import ray
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "training on several machines needs Ray: pip install 'fastkeras[ray]'"
            ) from error
        if not ray.is_initialized():
            ray.init()
        self.ray = ray
        self.work = None  # a reference
        self.shares = None  # references to the shares of both matrices, where workers have them

    def processors(self, num_threads, num_workers):
        """Return how many processors a worker takes: as asked, or its part of the cluster's."""
        machines = [node["Resources"].get("CPU", 0) for node in self.ray.nodes() if node["Alive"]]
        machines = [int(processors) for processors in machines if processors >= 1]
        if not machines or num_threads > max(machines):
            raise ValueError(
                f"num_threads={num_threads} of each worker: the machines of Ray have at most "
                f"{max(machines, default=0)} processors"
            )
        return num_threads or max(1, min(sum(machines) // num_workers, *machines))

    def round(self, parts, matrices, work, key, schedule):
        try:
            return self._round(parts, matrices, work, key, schedule)
        except self.ray.exceptions.RayError as error:
            # A task that needs what a lost one should have made fails too, and this is its cause.
            of_task = isinstance(error, self.ray.exceptions.RayTaskError)
            cause = getattr(error, "cause", None)
            if of_task and not isinstance(cause, self.ray.exceptions.RayError):
                raise  # an error of the task itself
            self.work = self.shares = None
            told = str(cause if of_task else error).strip() or repr(error)
            raise LostError(told.splitlines()[0]) from error

    def close(self):
        """Let Ray free what it holds for the training."""
        self.work = self.shares = None

    def _round(self, parts, matrices, work, key, schedule):
        number = len(parts) if self.shares is None else len(self.shares)
        if self.shares is None:
            self.work = self.ray.put(work)
            self.shares = [self.ray.put(share) for share in cut(matrices, number)]
        resources = {"num_cpus": work.num_threads, "num_returns": 1 + number}
        train = self.ray.remote(**resources)(train_task)
        combine = self.ray.remote(combine_task)
        tasks = [train.remote(part, self.work, key, schedule, *self.shares) for part in parts]
        tallies, *trained = zip(*tasks, strict=True)
        shares = [
            combine.remote(work.rate_factor, before, *of_share)
            for before, of_share in zip(self.shares, trained, strict=True)
        ]
        made = self.ray.get(shares)
        tallies = self.ray.get(list(tallies))
        for matrix, of_matrix in zip(matrices, zip(*made, strict=True), strict=True):
            np.concatenate(of_matrix, out=matrix)
        self.shares = shares
        return tallies


def train_task(part, work, key, schedule, *shares):
    """Return the tally, and what was trained of each share."""
    tally, trained = train_shares(part, work, key, schedule, shares)
    return tally, *trained


def combine_task(rate_factor, before, *trained):
    """Return a share of both matrices after the round."""
    return combine_share(before, trained, rate_factor)
