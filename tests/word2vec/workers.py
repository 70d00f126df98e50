"""What the tests of several workers share: a text of numbers, and a small model."""

import numpy as np

from fastkeras.word2vec import Word2Vec
from fastkeras.word2vec.distributed import (
    fit_with_ray,
    fit_with_spark,
    resume_with_ray,
    resume_with_spark,
)
from fastkeras.word2vec.vocabulary import Vocabulary
from word2vec.stand_ins import Ray, Spark

WORDS = 300
COUNTS = np.sort(np.random.default_rng(0).integers(5, 1000, WORDS))[::-1].astype(np.int64)
VOCABULARY = Vocabulary([f"w{i}" for i in range(WORDS)], COUNTS)
FUNCTIONS = {Ray: (fit_with_ray, resume_with_ray), Spark: (fit_with_spark, resume_with_spark)}


def small(**more):
    return Word2Vec(**{"vector_size": 12, "num_threads": 1, "epochs": 2, **more})


def fit(model, ids, function=fit_with_ray, **more):
    return function(model, ids, vocabulary=VOCABULARY, progress=False, **more)


def assert_same(a, b):
    np.testing.assert_array_equal(a.input_embeddings, b.input_embeddings)
    np.testing.assert_array_equal(a.output_embeddings, b.output_embeddings)
