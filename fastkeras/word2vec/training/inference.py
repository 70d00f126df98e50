"""Vectors of documents that a model was not trained on; all else of it stays as it is."""

import numpy as np

from fastkeras.word2vec.training import loop, matrices, sampling, settings


def vectors_of(model, tables, documents, epochs, first, last):
    """Yield the vector of each document; see `Doc2Vec.infer`.

    Args:
        model: the `Word2Vec` of a `Doc2Vec`.
        tables: its `Tables`.
        documents: iterable of int32 arrays, the ids of a document and −1.
        epochs: passes over each.
        first, last: learning rates at the start and at the end.

    Raises:
        FloatingPointError: the loss of a document, or its vector, is not finite.
    """
    size, seed = model.config["vector_size"], model.config["seed"]
    frozen = model._settings._replace(frozen=True)
    start = matrices.zero_rows(1, settings.padded(size))
    matrices.draw(start[:, :size], [seed, 2])
    for number, ids in enumerate(documents):
        document = settings.Documents(np.zeros(len(ids), np.int32), start.copy())
        slope = (last - first) / (epochs * len(ids))
        total = predictions = 0
        for epoch in range(epochs if len(ids) > 1 else 0):
            schedule = settings.Schedule(first + slope * epoch * len(ids), slope)
            loss, made, _ = model._engine.train(
                ids, 0, len(ids), *model._matrices, tables, frozen,
                sampling.key_of(seed, epoch), schedule, 1, documents=document,
            )  # fmt: skip
            total, predictions = total + loss, predictions + made
        vector = document.vectors[0, :size]
        if not predictions:  # no word is known, or `sample` has left none
            vector[:] = 0
        elif not (total <= loop.DIVERGED * predictions and np.isfinite(vector).all()):
            lost = f"document {number}: the loss is {total / predictions:.3g}"
            raise FloatingPointError(f"{lost}: learning_rate={first:g} is too large")
        yield vector
