"""Which engine trains a model, and how it is called for a slice of the corpus."""

import numpy as np

from fastkeras import _engines
from fastkeras.word2vec.training.settings import BOTH


def engine_of(config, engine=None):
    """Return the module of an engine that takes a model with these arguments.

    Raises:
        ValueError, ImportError: as `_engines.engine_for`.
    """
    needs, what = None, None
    if config.get("loss") == BOTH:
        needs, what = "BOTH_LOSSES", f"loss={BOTH!r}"
    if config.get("subwords"):  # every engine that takes subwords takes both losses
        needs, what = "SUBWORDS", "subwords"
    return _engines.engine_for("word2vec", np.empty(0), engine, needs, what)


def begin(engine, ids, matrices, tables, settings, documents=None):
    """Return the training of an engine that keeps its own matrices, or None; and `train_slice`.

    The first has `fetch()`, which copies them to `matrices`. The second is the engine's `train`, of
    which `begin, end, key, schedule, num_threads, deterministic` are left to be given.
    """
    if hasattr(engine, "Training"):
        training = engine.Training(ids, *matrices, tables, settings)
        return training, training.train

    beside = {} if documents is None else {"documents": documents}

    def train_slice(begin, end, *more):
        return engine.train(ids, begin, end, *matrices, tables, settings, *more, **beside)

    return None, train_slice
