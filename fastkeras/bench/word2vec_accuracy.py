"""What a pass of Word2Vec has to compute, and the errors of an engine against float64."""

from importlib import import_module

import numpy as np

from fastkeras.bench.word2vec import MIN_COUNT, NEGATIVE, SAMPLE, SIZE, WINDOW
from fastkeras.word2vec.corpus import encode
from fastkeras.word2vec.training import sampling
from fastkeras.word2vec.training.arguments import settings_of
from fastkeras.word2vec.training.settings import Schedule, Settings, output_rows, padded, tables_of
from fastkeras.word2vec.vocabulary import build

POSITIONS = 1000  # that are trained twice, to see the error
LOOKED_AT = 5000  # to count the arithmetic of all
WORDS = 300  # different ones; few, so that rows are updated again and again


def check(vectors, training):
    """Assert that the vectors are finite; return the error of the engine, if it is ours.

    The engine trains a short random text with one thread, from random vectors, and is compared with
    the reference in float64, which draws the same.

    Args:
        vectors: (words, size) after a pass over the corpus.
        training: that learned them; the random numbers of other libraries are their own.
    """
    assert np.isfinite(vectors).all() and np.ptp(vectors) > 0, "the vectors are no numbers"
    if training.engine is None:
        return {}
    random = np.random.default_rng(0)
    settings = settings_of(training.config)
    ids = np.minimum(random.geometric(0.02, POSITIONS), WORDS).astype(np.int32) - 1
    tables = tables_of(np.arange(WORDS, 0, -1), settings)
    matrices = [np.zeros((rows, padded(SIZE))) for rows in (WORDS, output_rows(WORDS, settings))]
    for matrix in matrices:
        matrix[:, :SIZE] = random.standard_normal((len(matrix), SIZE), np.float32) / 4
    more = tables, settings, sampling.key_of(0, 0), Schedule(0.025, 0.0)
    found = [matrix.astype(np.float32) for matrix in matrices]
    engine = import_module(f"fastkeras.word2vec._engines.{training.engine}")
    engine.train(ids, 0, POSITIONS, *found, *more, num_threads=1)
    reference = import_module("fastkeras.word2vec._engines.reference")
    reference.train(ids, 0, POSITIONS, *matrices, *more)
    error = max(np.abs(a - b).max() for a, b in zip(found, matrices, strict=True))
    assert error <= 1e-4, f"a number of a vector is wrong by {error}"
    return {"error": float(error)}


def work_of(path):
    """The floating-point operations of a pass over the file, for each form of training.

    For each pair of a word and an output: a product of their vectors, and both are updated.
    """
    vocabulary = build(path, min_count=MIN_COUNT)
    ids = encode(path, vocabulary, num_threads=1)
    looked_at = min(len(ids), LOOKED_AT)
    reference = import_module("fastkeras.word2vec._engines.reference")
    found = {}
    for function, settings in {
        "skip-gram": Settings(window=WINDOW),
        "CBOW": Settings("cbow", window=WINDOW),
        "hierarchical softmax": Settings(loss="hierarchical_softmax", window=WINDOW),
        "documents": Settings(window=WINDOW),
        "documents, PV-DBOW": Settings(window=WINDOW, documents_alone=True),
        "documents, PV-DM": Settings("cbow", window=WINDOW),
    }.items():
        tables = tables_of(vocabulary.counts, settings, SAMPLE)
        paths = np.diff(tables.path_starts)  # the lengths, if there is a tree
        key = sampling.key_of(0, 0)
        flops = 0
        for _, center, contexts in reference.windows(
            ids[:looked_at], 0, looked_at, tables, settings, key
        ):
            outputs = paths[center] if len(paths) else 1 + NEGATIVE
            contexts = 0 if settings.documents_alone else len(contexts)
            contexts += function.startswith("documents")
            is_mean = settings.objective == "cbow"
            flops += 6 * SIZE * outputs * (1 if is_mean else contexts)
            flops += 4 * SIZE * contexts * is_mean  # the mean; its gradient
        found[function] = int(flops * len(ids) / looked_at)
    return found
