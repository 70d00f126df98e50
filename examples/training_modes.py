"""Chinese word segmentation: one CRF, trained by its likelihood, by marginals, margins, and risk.

python examples/training_modes.py               train all, compare (under two minutes on 2 cores)
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import peoples_daily as corpus
from segment_training import Batches, segment
from semi_markov import network
from small_tagger import text_of

from fastkeras.layers import CRF
from fastkeras.losses import CRFLoss, CRFObjective

SPANS = ["B-word", "I-word", "I-word", "B-word"]  # b, m, e, s: words begin at b and at s
MODES = {  # a name: the loss, and whether training begins with the likelihood
    "likelihood": (CRFLoss, False),
    "marginals of tags": (lambda crf: CRFObjective(crf, "marginal"), False),
    "softmax-margin": (lambda crf: CRFObjective(crf, "softmax_margin"), False),
    "max-margin": (lambda crf: CRFObjective(crf, "max_margin"), False),
    "perceptron": (lambda crf: CRFObjective(crf, "perceptron"), False),
    "risk, 1 − F1 of words": (lambda crf: CRFObjective(crf, "risk", names=SPANS), True),
}


def main(arguments=None):
    given = options(arguments)
    training, _, test = corpus.split_by_position(corpus.read_paragraphs())
    training, test = training[: given.paragraphs], test[: max(given.paragraphs // 3, 1)]
    vocabulary = corpus.vocabulary_of(training)
    text = text_of(training, vocabulary)
    print(
        f"{len(training):,} paragraphs to train on, {len(test):,} to test\n\n"
        f"{'':24}the best sequence      the best tag of each step\n"
        f"{'trained by':24}tags right    F1       tags right    F1"
    )
    results = {}
    for name, (loss, led) in MODES.items():
        began = time.perf_counter()
        keras.utils.set_random_seed(0)
        crf, model = network(len(vocabulary), CRF(4, use_kernel=True, learning_rate_multiplier=10))
        if led:
            train(model, crf.loss, text, given.epochs)
        train(model, loss(crf), text, given.epochs)
        results[name] = [
            score(crf.decode(model, posterior=posterior), test, vocabulary)
            for posterior in (False, True)
        ]
        figures = "   ".join(f"{right:9.4f} {f1:9.4f}" for right, f1 in results[name])
        print(f"{name:23}{figures}      ({time.perf_counter() - began:.0f} s)", flush=True)
    return results


def options(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=4, help="of each model (default: 4)")
    parser.add_argument("--paragraphs", type=int, default=900, help="to train on (default: 900)")
    given = parser.parse_args(arguments)
    for option in ("epochs", "paragraphs"):
        if getattr(given, option) < 1:
            parser.error(f"--{option} {getattr(given, option)} must be at least 1")
    return given


def train(model, loss, text, epochs):
    """Train by a loss, each sentence with the weight 1 / length."""
    batches = Batches(text.characters, text.tags, "crf")
    rate = keras.optimizers.schedules.CosineDecay(4e-3, epochs * len(batches))
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(batches, epochs=epochs, verbose=0)


def score(decoder, paragraphs, vocabulary):
    """The share of right tags, and the F1 of words."""
    texts = ["".join(words) for words in paragraphs]
    found, tags = segment(texts, vocabulary, decoder.predict_on_batch)
    true = np.concatenate([corpus.tags_of(words) for words in paragraphs])
    return (np.concatenate(tags) == true).mean(), corpus.score(paragraphs, found)[2]


if __name__ == "__main__":
    main()
