"""Adversarial training of an embedding, and SAM, on a small task: which words decide a sentence?

python examples/adversarial.py             half a minute on 2 cores
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers

from fastkeras.training import FGM, SAM, GradientPenalty, VirtualAdversarial, train_with

WORDS, LENGTH, SEEDS = 600, 12, 3


def sentences(count, rng):
    """Random words, each with a hidden sentiment; the label is the sign of their sum."""
    sentiment = np.random.default_rng(0).standard_normal(WORDS)
    words = rng.integers(0, WORDS, (count, LENGTH)).astype("int32")
    return words, (sentiment[words].sum(-1) > 0).astype("int32")


def network(seed):
    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(64, "relu"), layers.Dense(2, "softmax")]
    words = [layers.Embedding(WORDS, 32, name="words"), layers.GlobalAveragePooling1D()]
    model = keras.Sequential([keras.Input((LENGTH,), dtype="int32"), *words, *hidden])
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", ["accuracy"])
    return model


def main():
    rng = np.random.default_rng(1)
    training, test = sentences(800, rng), sentences(4000, rng)
    rules = {
        "plain": None,
        "FGM": FGM("words/embeddings", epsilon=0.3),
        "gradient penalty": GradientPenalty("words/embeddings", epsilon=1.0),
        "virtual adversarial": VirtualAdversarial("words/embeddings", epsilon=0.3),
        "SAM": SAM(0.1),
    }
    print(f"800 sentences; test accuracy and loss after 20 epochs, mean of {SEEDS} seeds")
    for name, rule in rules.items():
        found = []
        for seed in range(SEEDS):
            model = train_with(network(seed), rule)
            model.fit(*training, epochs=20, batch_size=64, verbose=0)
            found.append(model.evaluate(*test, verbose=0))
        loss, accuracy = np.mean(found, 0)
        spread = np.std([accuracy for _, accuracy in found])
        print(f"  {name:20} {accuracy:.3f} ± {spread:.3f}   {loss:.3f}")


if __name__ == "__main__":
    main()
