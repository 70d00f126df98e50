"""A training in rounds, whatever runs them."""

import warnings

from fastkeras.word2vec.distributed.rounds import Work, parts_of, schedule_of_worker
from fastkeras.word2vec.training.loop import CUT

TRIALS = 5  # of a round whose workers were lost, beyond what runs them tries by itself


class LostError(RuntimeError):
    """A round has lost its workers."""


class Training:
    """A training as `training/engine.py` has it, whose slices are rounds of workers.

    Args:
        workers: `processors(num_threads, num_workers)` returns how many processors each takes.
            `round(parts, matrices, work, key, schedule)` trains the parts, updates the matrices and
            returns the tallies, or raises `LostError` and leaves the matrices as they were.
        engine: the name of the workers' engine.
        rate_factor, way: as in `rounds.Work`.
        num_workers, words_between: parts of a round, and their length, rounded up to
            `loop.CUT`.
        ids, inputs, outputs, tables, settings: as in an engine's `train`. The matrices are those
            after the last round.
    """

    def __init__(
        self, workers, engine, rate_factor, way, num_workers, words_between,
        ids, inputs, outputs, tables, settings,
    ):  # fmt: skip
        self.workers, self.num_workers = workers, num_workers
        self.block = num_workers * -(-words_between // CUT) * CUT
        self.ids, self.matrices = ids, (inputs, outputs)
        self.of_work = engine, tables, settings, rate_factor, way
        self.work = None
        most = -(-len(ids) // CUT)
        if most < num_workers:
            warnings.warn(
                f"num_workers={num_workers}: a text of {len(ids)} positions has work for {most} "
                f"workers, with {CUT} positions each",
                stacklevel=7,
            )

    def fetch(self):
        """Do nothing: the matrices are here after each round."""

    def train(self, begin, end, key, schedule, num_threads, deterministic):
        """Train a slice in one round, which is done again if its workers are lost."""
        if self.work is None:
            threads = self.workers.processors(num_threads, self.num_workers)
            self.work = Work(*self.of_work, threads, deterministic)
        parts = parts_of(self.ids, begin, end, self.num_workers)
        schedule = schedule_of_worker(schedule, self.work.rate_factor, len(parts))
        for trial in range(TRIALS):
            try:
                tallies = self.workers.round(parts, self.matrices, self.work, key, schedule)
            except LostError as error:
                lost = error
                warnings.warn(f"round {trial + 1} at {begin} was lost: {error}", stacklevel=2)
            else:
                loss, predictions, words = map(sum, zip(*tallies, strict=True))
                return loss, int(predictions), int(words)
        raise RuntimeError(
            f"the workers of a round were lost {TRIALS} times; the model is that of position "
            f"{begin}, and resume_with_{self.workers.NAME} goes on from there"
        ) from lost
