"""A training step of the Keras layers of Word2Vec, by engine: with and without the optimizer.

    python bench/word2vec_layers.py
    KERAS_BACKEND=jax python bench/word2vec_layers.py

The batches are those of `Windows` on the synthetic text; the steps of the engines take turns.
"""

import argparse
import os
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from conftest import machine, results_path, store
from fastkeras.bench import word2vec_corpus

WORDS, BATCH, SIZE = 1_000_000, 8192, 100
BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
NAME = "word2vec-layers" if BACKEND == "tensorflow" else f"word2vec-layers-{BACKEND}"
ENGINES = (f"{BACKEND}_native", "keras")
CASES = {
    "SkipGram, 5 drawn": ("SkipGram", {"negative": 5}),
    "SkipGram, 16 drawn": ("SkipGram", {"negative": 16}),
    "SkipGram, 16 drawn, negative sampling": (
        "SkipGram",
        {"negative": 16, "loss": "negative_sampling"},
    ),
    "SkipGram, 256 shared": ("SkipGram", {"negative": 256, "shared_negatives": True}),
    "CBOW, 5 drawn": ("CBOW", {"negative": 5}),
    "CBOW, 16 drawn": ("CBOW", {"negative": 16}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="of each engine and case")
    parser.add_argument("--results", type=Path, help="default: bench/results/<machine>.json")
    options = parser.parse_args()
    results = {"machine": machine(), "batch": BATCH, "size": SIZE}
    results["layers"] = measured(options.steps)
    print(*report(results["layers"]), sep="\n")
    path = options.results or results_path(NAME, results["machine"])
    store(results, path)
    print(f"written: {path}")


def measured(steps):
    """Return {case: {engine: {what: {low, median, high} of seconds}}}."""
    from fastkeras.word2vec import Windows
    from fastkeras.word2vec.vocabulary import build

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/text.txt"
        word2vec_corpus.write(path, WORDS)
        vocabulary = build(path, min_count=2)
        batches = {
            name: [
                windows[i][0]
                for windows in [Windows(path, vocabulary, kind, batch_size=BATCH)]
                for i in range(8)
            ]
            for name, kind in (("SkipGram", "skipgram"), ("CBOW", "cbow"))
        }
    rows = {}
    for case, (kind, settings) in CASES.items():
        calls = {
            (engine, what): call
            for engine in ENGINES
            for what, call in calls_of(kind, vocabulary, {**settings, "engine": engine}).items()
        }
        seconds = {key: [] for key in calls}
        for step, batch in enumerate(islice(cycle(batches[kind]), steps + 2)):
            for key, call in calls.items():
                start = time.process_time(), time.perf_counter()
                call(batch)
                cpu, wall = time.process_time() - start[0], time.perf_counter() - start[1]
                if step >= 2:  # the first ones trace
                    seconds[key].append((cpu, wall))
        rows[case] = {}
        for (engine, what), of_call in seconds.items():
            cpu, wall = zip(*of_call, strict=True)
            of_engine = rows[case].setdefault(engine, {})
            of_engine[what] = {"cpu": spread(cpu), "wall": spread(wall)}
    return rows


def calls_of(kind, vocabulary, settings):
    """Return functions of a batch: a step of Adam; on TensorFlow lazy, and loss and gradients."""
    import keras
    import numpy as np

    from fastkeras import layers
    from fastkeras.optimizers import Adam

    layer = getattr(layers, kind)(vocabulary, SIZE, **settings)
    contexts = () if kind == "SkipGram" else (10,)
    inputs = [keras.Input((), dtype="int32"), keras.Input(contexts, dtype="int32")]
    model = keras.Model(inputs, layer(inputs))
    model.compile(Adam(1e-3, lazy=BACKEND == "tensorflow"))
    layer.output_embeddings.assign(np.random.default_rng(0).normal(0, 0.1, (len(vocabulary), SIZE)))

    if BACKEND != "tensorflow":
        return {"step": model.train_on_batch}
    import tensorflow as tf

    @tf.function
    def gradients(batch):
        with tf.GradientTape() as tape:
            model(batch, training=True)
            loss = tf.add_n(model.losses)
        return loss, tape.gradient(loss, [v.value for v in layer.trainable_variables])

    return {"loss and gradients": gradients, "step": model.train_on_batch}


def spread(seconds):
    seconds = sorted(seconds)
    fifth = len(seconds) // 5
    return {
        "low": seconds[fifth],
        "median": seconds[len(seconds) // 2],
        "high": seconds[-1 - fifth],
    }


def report(rows):
    """Lines with the times of both engines and their ratio."""
    for case, row in rows.items():
        yield case
        for what in row[ENGINES[0]]:
            for clock in ("cpu", "wall"):
                ours, other = (row[engine][what][clock] for engine in ENGINES)
                times = f"{other['median'] / ours['median']:.2f}"
                low, high = other["low"] / ours["high"], other["high"] / ours["low"]
                milliseconds = f"{1e3 * ours['median']:7.1f} ms, {1e3 * other['median']:7.1f} ms"
                yield f"  {what:19} {clock:5} {milliseconds}: {times} × ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
