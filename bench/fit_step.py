"""A whole step of `fit` of the README's tagger, on each backend of Keras, with and without us.

    python bench/fit_step.py

Keras takes one backend in a process, so each is measured in a process of its own. "Without us" is
the CRF composed of Keras operations, and Keras' AdamW with one learning rate for all.
"""

import argparse
import os
import subprocess
import sys
import time

from conftest import CORES

BACKENDS = ("tensorflow", "jax", "torch")
WITH, WITHOUT, SOFTMAX = "fastkeras", "keras operations", "a softmax head"
BATCH, STEPS, TAGS = 32, 128, 9


def network(way):
    import keras

    from fastkeras.layers import CRF
    from fastkeras.optimizers import AdamW

    keras.utils.set_random_seed(0)
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(5000, 64, mask_zero=True)(inputs)
    x = keras.layers.Bidirectional(keras.layers.LSTM(64, return_sequences=True))(x)
    optimizer = keras.optimizers.AdamW(1e-3, global_clipnorm=1.0)
    if way == SOFTMAX:
        x = keras.layers.Dense(TAGS)(x)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    else:
        engine = None if way == WITH else "keras"
        crf = CRF(num_tags=TAGS, use_kernel=True, engine=engine)
        x, loss = crf(x), crf.loss
        if way == WITH:
            rates = [(crf, 10.0)]
            optimizer = AdamW(1e-3, learning_rate_multipliers=rates, global_clipnorm=1.0)
    model = keras.Model(inputs, x)
    model.compile(optimizer, loss=loss)
    return model


def seconds_of_a_step(way, steps):
    """The seconds of a step in the fastest of several epochs, and those of the first step."""
    import numpy as np

    random = np.random.default_rng(0)
    words = random.integers(1, 5000, (BATCH * steps, STEPS)).astype("int32")
    tags = random.integers(0, TAGS, words.shape).astype("int32")
    model = network(way)
    start = time.perf_counter()
    model.fit(words[:BATCH], tags[:BATCH], batch_size=BATCH, verbose=0)
    first = time.perf_counter() - start
    epochs = []
    for _ in range(4):
        start = time.perf_counter()
        model.fit(words, tags, batch_size=BATCH, verbose=0)
        epochs.append((time.perf_counter() - start) / steps)
    return min(epochs[1:]), first


def measure(steps):
    """What a process prints about its backend."""
    import keras

    backend, found = keras.backend.backend(), {}
    for way in (SOFTMAX, WITH, WITHOUT):
        found[way], first = seconds_of_a_step(way, steps)
        more = "" if way == SOFTMAX else f"   {1000 * (found[way] - found[SOFTMAX]):+9.1f}"
        print(f"{backend:12}{way:18}{1000 * found[way]:9.1f}{first:10.1f} s{more}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="an epoch (default: 20)")
    parser.add_argument("--of", choices=BACKENDS, help="only this backend")
    given = parser.parse_args()
    title = f"batch × steps × tags {BATCH} × {STEPS} × {TAGS}, {len(CORES)} cores"
    print(f"{'':12}{title:18}\n{'':30}{'ms':>9}{'first':>12}{'than softmax':>15}", flush=True)
    for backend in [given.of] if given.of else BACKENDS:
        environment = {**os.environ, "KERAS_BACKEND": backend}
        code = f"import fit_step; fit_step.measure({given.steps})"
        run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=sys.path[0])
        if run.returncode != 0:
            print(f"{backend:12}was not measured")


if __name__ == "__main__":
    main()
