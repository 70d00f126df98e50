"""What partial_labels.py and distill_crf.py share: text to cut into words, a small network, F1."""

import argparse
import logging
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt
import numpy as np
import peoples_daily as corpus
from keras import layers, ops
from segment_report import STYLE
from segment_training import Batches, segment
from segment_training import write as write_whole

from fastkeras.crf import constraints, viterbi
from fastkeras.layers import CRF

logging.getLogger("tensorflow").setLevel(logging.ERROR)  # of batches of many shapes

NUM_TAGS = len(corpus.TAG_NAMES)
LEGAL = constraints.allowed("BMES", ["B-word", "M-word", "E-word", "S-word"])


class Text(NamedTuple):
    """Some paragraphs, as sentences of character numbers with their tags."""

    paragraphs: Any  # lists of words
    characters: Any  # of each sentence, int32
    tags: Any


def text_of(paragraphs, vocabulary):
    return Text(paragraphs, *corpus.labelled_sentences(paragraphs, vocabulary))


class Tagger(keras.Model):
    """A model trained to maximize `objective(characters, y, emissions)` of sentences."""

    objective = None

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Called by Keras for every batch; a sentence has the weight 1 / length."""
        return -ops.mean(sample_weight * self.objective(x, y, y_pred))


def network(vocabulary_size, width, convolutions):
    """Character numbers (batch, steps) → emissions of b, m, e, s from a CRF layer."""
    characters = layers.Input((None,), dtype="int32")
    mask = ops.not_equal(characters, corpus.PADDING)
    valid = ops.cast(mask, "float32")[..., None]
    x = layers.Embedding(vocabulary_size + 2, width)(characters)
    x = layers.Dropout(0.2)(x) * valid
    for _ in range(convolutions):
        x = layers.Conv1D(width, 3, padding="same", activation="relu")(x)
        x = layers.Dropout(0.2)(x) * valid
    crf = CRF(NUM_TAGS, use_kernel=True, learning_rate_multiplier=10, name="crf")
    return Tagger(characters, crf(x, mask=mask), name="crf")


def scores_of(model):
    """The arguments of the functions of `fastkeras.crf` other than emissions, by name."""
    crf = model.get_layer("crf")
    names = ("transitions", "start_transitions", "end_transitions")
    return {name: getattr(crf, name) for name in names}


def train(model, objective, text, epochs, tags=None):
    """Train with Adam, whose rate falls to zero, on `tags`, or else the tags of the text."""
    batches = Batches(text.characters, text.tags if tags is None else tags, "crf")
    schedule = keras.optimizers.schedules.CosineDecay(4e-3, epochs * len(batches))
    model.objective = objective
    model.compile(keras.optimizers.Adam(schedule))
    with warnings.catch_warnings():  # an objective may not use the transitions
        warnings.filterwarnings("ignore", "Gradients do not exist", UserWarning)
        model.fit(batches, epochs=epochs, verbose=0)


def batches_in(text):
    return len(Batches(text.characters, text.tags, "crf"))


def f1(model, text, vocabulary):
    """The F1 of words; only legal sequences of tags are decoded, whatever was learned."""
    scores = {name: np.asarray(value) for name, value in scores_of(model).items()}
    legal = LEGAL.apply(**scores)

    def decode(characters):
        lengths = (characters != corpus.PADDING).sum(axis=1)
        return viterbi(model.predict_on_batch(characters), lengths=lengths, **legal)[0]

    texts = ["".join(words) for words in text.paragraphs]
    found, _ = segment(texts, vocabulary, decode)
    return corpus.score(text.paragraphs, found)[2]


def options(documentation, name, paragraphs, epochs, arguments=None):
    """Return the options of an example: where its picture goes, and how much it reads."""
    parser = argparse.ArgumentParser(
        description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(f"build/{name}.png"),
        help=f"(default: build/{name}.png)",
    )
    parser.add_argument("--epochs", type=int, default=epochs, help=f"(default: {epochs})")
    parser.add_argument(
        "--paragraphs", type=int, default=paragraphs, help=f"to train on (default: {paragraphs:,})"
    )
    given = parser.parse_args(arguments)
    for option in ("epochs", "paragraphs"):
        if getattr(given, option) < 1:
            parser.error(f"--{option} {getattr(given, option)} must be at least 1")
    return given


def panels(count, width=6.4):
    """Return a figure and its axes, side by side."""
    plt.rcParams.update(STYLE | {"legend.frameon": False})
    return plt.subplots(1, count, figsize=(width * count, 4), layout="constrained")


def write(figure, path):
    """Write a picture, whole or not at all, and print where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda partial: figure.savefig(partial, dpi=110, format="png"))
    plt.close(figure)
    print(path)
