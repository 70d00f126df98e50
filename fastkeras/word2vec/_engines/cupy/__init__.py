"""CUDA kernels: corpus, tables and both matrices stay on the GPU for a whole training.

`num_threads` is how many places of the text train at the same time, each in a block of its own that
updates rows without locks; 0 takes as many as the vocabulary allows (`num_places`). One place, or
the deterministic mode, trains in the order of the text.
"""

import cupy
import numpy as np

from fastkeras._ops import cupy as device
from fastkeras._ops.cupy import Kernels, source
from fastkeras.word2vec.training import sampling
from fastkeras.word2vec.training.settings import reach_of

CODE = source(
    __name__, ("draws.cu", "windows.cu", "rows.cu", "shared_negatives.cu", "one_set.cu", "train.cu")
)
OBJECTIVES = ("window", "pairs", "means")  # as in windows.cu
KERNELS = {
    (objective, wide): Kernels(CODE, FASTKERAS_OBJECTIVE=number, FASTKERAS_WIDE=int(wide))
    for number, objective in enumerate(OBJECTIVES)
    for wide in (False, True)
}
SLICE = 1 << 22  # positions whose words are collected at a time
THREADS, WARPS, GROUP, ROOM, INT_ROOM = 160, 4, 8, 10240, 1920  # of rows.cu
HEAD = 10  # of windows.cu
TILE, COUNT_THREADS = 1024, 256  # of draws.cu
SCRATCH = 1 << 28  # numbers in the memory of all blocks, if windows are wide
MOST_PLACES = 256
SHARED = 12  # places that may have the same row at the same time, on average
SAMPLE = 1 << 20  # positions whose words are counted to find out


def train(
    ids, begin, end, inputs, outputs, tables, settings, key, schedule,
    num_threads=1, deterministic=False, documents=None,
):  # fmt: skip
    assert documents is None  # it has no DOCUMENTS
    training = Training(ids, inputs, outputs, tables, settings)
    done = training.train(begin, end, key, schedule, num_threads, deterministic)
    training.fetch()
    return done


class Training:
    """A training with all that it needs on the GPU. Arguments are those of `train`."""

    def __init__(self, ids, inputs, outputs, tables, settings):
        self.on_host, self.host_ids, self.settings = (inputs, outputs), ids, settings
        self.keep = tables.keep
        self.matrices = [cupy.asarray(matrix) for matrix in self.on_host]
        self.ids, self.thresholds = cupy.asarray(ids), cupy.asarray(tables.keep)
        of_loss = {
            "negative_sampling": (tables.noise,),
            "sampled_softmax": (tables.noise, tables.logit_offsets),
            "hierarchical_softmax": (
                *(None, None),
                *(tables.path_starts, tables.path_nodes, tables.path_signs),
            ),
        }[settings.loss]
        self.tables = [None if table is None else cupy.asarray(table) for table in of_loss]
        self.tables += [None] * (5 - len(self.tables))
        paths = np.diff(tables.path_starts)
        self.most_outputs = int(paths.max()) if len(paths) else settings.negative + 1
        self.default_places = num_places(ids, tables, settings)
        self.is_fetched = True

    def fetch(self):
        """Copy the matrices to where they came from, unless they are the same there."""
        if not self.is_fetched:
            for matrix, on_host in zip(self.matrices, self.on_host, strict=True):
                on_host[:] = cupy.asnumpy(matrix)
            self.is_fetched = True

    def train(self, begin, end, key, schedule, num_threads=1, deterministic=False):
        """As the function `train`, but only the result is copied to the host."""
        places = 1 if deterministic else num_threads or self.default_places
        self.is_fetched = False
        tally = device.zeros((places, 3), "float64")
        for at in range(begin, end, SLICE):
            self._train(at, min(at + SLICE, end), key, schedule, places, tally)
        loss, predictions, words = cupy.asnumpy(tally).sum(axis=0)
        return float(loss), int(predictions), int(words)

    def _train(self, begin, end, key, schedule, places, tally):
        settings = self.settings
        reach = reach_of(self.host_ids, settings.window, begin, end)
        start, before = self._with_contexts(begin, key, reach, -1)
        stop, after = self._with_contexts(end, key, reach, 1)
        size, signed_key = stop - start, np.uint64(key).astype(np.int64)
        tiles = -(-size // TILE)
        counted = device.empty((tiles + 1, 2), "int32")
        items = device.empty((3, size), "int32")
        slice_ = (self.ids, np.int64(start), size, self.thresholds, len(self.keep), signed_key)
        objective = _objective(settings)
        stride = self.matrices[0].shape[1]
        num_floats, num_ints = self._memory(reach, objective)
        wide = num_floats > ROOM or num_ints > INT_ROOM
        kernels = KERNELS[objective, wide]
        device.launch(kernels, "count_items", tiles, COUNT_THREADS, *slice_, counted)
        device.launch(kernels, "sum_counts", 1, COUNT_THREADS, counted, tiles)
        device.launch(
            *(kernels, "write_items", tiles, COUNT_THREADS, *slice_, counted),
            *(items[0], items[1], items[2]),
        )
        scratch = (None, None)
        if wide:
            places = max(min(places, SCRATCH // (num_floats + num_ints)), 1)
            scratch = tuple(
                device.empty((places, size), dtype)
                for size, dtype in ((num_floats, "float32"), (num_ints, "int32"))
            )
        device.launch(
            *(kernels, "train", places, THREADS, items[0], items[1], items[2], counted, tiles),
            *(np.int64(start), before, after, *self.matrices, stride, reach),
            *(*self.tables, len(self.keep), settings.negative, self.most_outputs),
            *(settings.window, int(settings.shrink_windows), int(settings.exact_cbow), signed_key),
            *(np.float64(schedule.learning_rate), np.float64(schedule.slope)),
            *(scratch[0], np.int64(num_floats), scratch[1], np.int64(num_ints), tally),
        )

    def _memory(self, reach, objective):
        """How many floats and ints a block needs."""
        stride, outputs = self.matrices[0].shape[1], self.most_outputs
        padded = (outputs + GROUP) // GROUP * GROUP
        errors = (2 * reach if objective == "window" else WARPS + 1) * padded
        sets = 2 * reach if objective == "pairs" else 1
        plan = HEAD + 4 * reach + 3 * sets * outputs
        floats = 2 * (2 * reach + 1) * stride + (outputs + 1) * stride + errors
        return floats, 6 * (2 * reach + 1) + 3 * plan

    def _with_contexts(self, edge, key, reach, step):
        """Where the words end that windows reach from this edge; how many of them stay."""
        found, size = 0, max(4 * reach, 64)
        while True:
            other = max(edge - size, 0) if step < 0 else min(edge + size, len(self.host_ids))
            ids = np.asarray(self.host_ids[min(edge, other) : max(edge, other)])[::step]
            ends = np.flatnonzero(ids < 0)
            at_end = len(ends) > 0 or len(ids) < size
            ids = ids[: ends[0]] if len(ends) else ids
            first = edge - 1 if step < 0 else edge
            positions = first + step * np.arange(len(ids))
            stay = sampling.stays(sampling.bits_at(key, positions), self.keep[ids])
            kept = np.flatnonzero(stay)[: reach - found]
            found += len(kept)
            if found == reach:
                return edge + step * (int(kept[-1]) + 1), found
            edge += step * len(ids)
            if at_end:
                return edge, found
            size = min(2 * size, 1 << 20)


def _objective(settings):
    if settings.objective == "cbow":
        return "means"
    return "window" if settings.shared_negatives else "pairs"


def num_places(ids, tables, settings):
    """How many places may train at once, so that no row is at more than `SHARED` of them."""
    sample = np.asarray(ids[:: max(len(ids) // SAMPLE, 1)])
    words = len(tables.keep)
    counts = np.bincount(sample[(sample >= 0) & (sample < words)], minlength=words)
    kept = counts * (tables.keep.astype(np.float64) + 1)
    share = (2 * settings.window + 1) * kept.max() / max(kept.sum(), 1)
    if len(tables.noise):
        drawn = tables.noise[:, 0] / 2.0**32
        drawn = drawn + np.bincount(tables.noise[:, 1], 1 - drawn, words)
        share = max(share, settings.negative * drawn.max() / words)
    else:
        share = 1  # the root of the tree is on every path
    share = min(share, 1)
    return int(min(max(SHARED / max(share, 1e-9), 1), MOST_PLACES))
