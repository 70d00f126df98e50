"""The four ways to fine-tune that are compared, their training, and the time of their steps."""

import json
import time
from typing import Any, NamedTuple

import keras
import minilm
import numpy as np
import tensorflow as tf
from segment_training import write

from fastkeras.optimizers import AdamW, layerwise_decay, transforms

BATCH = 32
LENGTH = 32  # tokens; 97 % of the tweets are no longer
SECTIONS = 2  # of an epoch; each ends with a record of the loss and the validation accuracy
WEIGHT_DECAY = 0.01
RATE = 2e-4  # at its peak, in all four
RUNS = ("layered", "one rate", "8 bits", "Keras")
MOMENT_BITS = {"one rate": 32, "16 bits": 16, "8 bits": 8}


class Data(NamedTuple):
    """Token numbers and labels, two arrays each."""

    training: Any
    validation: Any
    test: Any


def optimizer(run, model, steps):
    """One of the four; all warm up over a tenth of the steps, then fall to zero."""
    warm_up = max(1, steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), warmup_target=RATE, warmup_steps=warm_up
    )
    if run == "Keras":
        return keras.optimizers.AdamW(rate, WEIGHT_DECAY)
    if run in MOMENT_BITS:
        return AdamW(rate, WEIGHT_DECAY, moment_bits=MOMENT_BITS[run])
    # The closer a layer is to the words, the more of its knowledge of the language should be kept,
    # whereas the head has yet to learn everything.
    rates = layerwise_decay(model, 0.9, layers=minilm.parts(model))
    return AdamW(
        rate,
        WEIGHT_DECAY,
        learning_rate_multipliers=[*rates, ("^head/", 10.0)],
        # A batch sees a few hundred of 30,522 words: their gradients are few and large.
        gradient_transforms=[("^embeddings/", transforms.chain(transforms.clip_by_norm(1.0)))],
        weight_decay_overrides=[(r"/bias$|norm/", 0.0)],
    )


def compiled(run, classes, steps, seed=0):
    """A classifier from the pretrained encoder: (the model to save, the one with an optimizer)."""
    keras.utils.set_random_seed(seed)  # the same head and the same dropout in every run
    model = minilm.classifier(minilm.pretrained(), classes)
    training = keras.Model(model.input, model.output)  # a saved optimizer would treble the file
    training.compile(
        optimizer(run, model, steps),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # under XLA the optimizers of fastkeras are composites
    )
    return model, training


def train(run, data, classes, epochs, folder, seed=0):
    """Return the measurements; save the model in `folder`. A finished run is not repeated."""
    folder.mkdir(parents=True, exist_ok=True)
    name = run.replace(" ", "-")
    results_file = folder / f"{name}.json"
    if results_file.exists():
        print("  done before")
        return json.loads(results_file.read_text())
    tokens, labels = data.training
    random = np.random.default_rng(seed)  # the same batches in every run
    order = np.concatenate([random.permutation(len(labels)) for _ in range(epochs)])
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    sections = np.array_split(np.arange(len(batches)), SECTIONS * epochs)
    model, training = compiled(run, classes, len(batches), seed)
    began, curve, done = time.perf_counter(), [], 0
    for section in filter(len, sections):
        members = np.concatenate([batches[i] for i in section])
        fitted = training.fit(
            tokens[members], labels[members], batch_size=BATCH, shuffle=False, verbose=0
        )
        _, accuracy = training.evaluate(*data.validation, batch_size=100, verbose=0)
        done += len(section)
        loss = float(fitted.history["loss"][0])
        curve.append({"step": done, "loss": loss, "val_accuracy": float(accuracy)})
        print(
            f"  step {done:4} of {len(batches)}   loss {loss:.3f}   validation {accuracy:.3f}   "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
    test_loss, test_accuracy = training.evaluate(*data.test, batch_size=100, verbose=0)
    results = {
        "rate": RATE,
        "test_accuracy": float(test_accuracy),
        "test_loss": float(test_loss),
        "training_loss": curve[-1]["loss"],
        "largest_weight": max(float(np.abs(w).max()) for w in model.get_weights() if w.size),
        "state_mb": state_bytes(training.optimizer) / 1e6,
        "seconds": time.perf_counter() - began,
        "curve": curve,
    }
    write(folder / f"{name}.keras", model.save)
    write(results_file, lambda path: path.write_text(json.dumps(results)))
    return results


def state_bytes(optimizer):
    """Bytes of all that an optimizer keeps: the moments, and a few numbers."""
    return sum(
        int(np.prod(variable.shape)) * np.dtype(variable.dtype).itemsize
        for variable in optimizer.variables
    )


def step_times(data, classes, turns=15):
    """Return the median seconds of forward and backward pass, and of each optimizer's step.

    All share one model and take turns; as in training, each step follows a backward pass.
    """
    model, training = compiled("layered", classes, 1000)
    variables = model.trainable_variables
    optimizers = {run: optimizer(run, model, 1000) for run in RUNS}
    for one in optimizers.values():
        one.build(variables)

    @tf.function
    def gradients(tokens, labels):
        with tf.GradientTape() as tape:
            loss = training.compute_loss(y=labels, y_pred=model(tokens, training=True))
        return tape.gradient(loss, [variable.value for variable in variables])

    steps = {
        run: tf.function(lambda found, one=one: one.apply(found)) for run, one in optimizers.items()
    }
    tokens, labels = (tf.constant(part[:BATCH]) for part in data.training)
    seconds = {"gradient": []} | {run: [] for run in RUNS}
    for turn in range(turns + 2):  # the first two trace
        for run, step in steps.items():
            start = time.perf_counter()
            found = gradients(tokens, labels)
            between = time.perf_counter()
            step(found)
            if turn >= 2:
                seconds["gradient"].append(between - start)
                seconds[run].append(time.perf_counter() - between)
    return {name: float(np.median(of)) for name, of in seconds.items()}
