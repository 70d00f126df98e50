"""Adversarial training of an embedding, and SAM: what an attack on the embedding leaves of them.

python examples/adversarial.py             half a minute on 2 cores
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers

from fastkeras.training import (
    FGM,
    SAM,
    GradientPenalty,
    VirtualAdversarial,
    gradients_of,
    train_with,
)

WORDS, LENGTH, EPSILON, EPOCHS = 600, 12, 5.0, 10


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
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    return model


def under_attack(model, words, labels):
    """Test accuracy with the embedding moved by EPSILON along the gradient of the loss."""
    gradient, table = gradients_of(model, words, labels)[0], model.trainable_variables[0]
    before = model.get_weights()
    table.assign_add(EPSILON * gradient / np.linalg.norm(gradient))
    accuracy = model.evaluate(words, labels, verbose=0)[1]
    model.set_weights(before)
    return accuracy


def main():
    rng = np.random.default_rng(1)
    training, test = sentences(800, rng), sentences(4000, rng)
    rules = {
        "plain": None,
        "FGM": FGM("words/embeddings", epsilon=1.0),
        "gradient penalty": GradientPenalty("words/embeddings", epsilon=100.0),
        "virtual adversarial": VirtualAdversarial("words/embeddings", epsilon=1.0),
        "SAM": SAM(0.5),
    }
    print(f"{EPOCHS} epochs: test accuracy, and that with the embedding moved by {EPSILON}")
    for name, rule in rules.items():
        model = train_with(network(0), rule)
        model.fit(*training, epochs=EPOCHS, batch_size=64, verbose=0)
        accuracy = model.evaluate(*test, verbose=0)[1]
        print(f"  {name:20} {accuracy:.3f}   {under_attack(model, *test):.3f}", flush=True)


if __name__ == "__main__":
    main()
