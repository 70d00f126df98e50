"""Chinese word segmentation by scores of whole words, and of three tags, beside a CRF.

python examples/semi_markov.py                  train all, compare (under two minutes)
"""

import argparse
import time

import keras
import numpy as np
import peoples_daily as corpus
from keras import layers, ops
from segment_training import Batches, segment
from small_tagger import text_of

from fastkeras.layers import CRF, SecondOrderCRF, SemiMarkovCRF

MAX_LENGTH = 8  # of a word
KINDS = 3  # of words: of one character, of two, of more


def main(arguments=None):
    given = options(arguments)
    training, _, test = corpus.split_by_position(corpus.read_paragraphs())
    training, test = training[: given.paragraphs], test[: max(given.paragraphs // 4, 1)]
    vocabulary = corpus.vocabulary_of(training)
    text = text_of(training, vocabulary)
    print(f"{len(training):,} paragraphs to train on, {len(test):,} to test\n")
    print(f"{'words':28}precision   recall       F1")
    results = {}
    for name, (head, labels) in HEADS.items():
        began = time.perf_counter()
        keras.utils.set_random_seed(0)
        crf, model = network(len(vocabulary), head())
        train(crf, model, text, labels, given.epochs)
        results[name] = score(crf.decode(model), test, vocabulary, isinstance(crf, CRF))
        figures = "".join(f"{value:9.4f}" for value in results[name])
        print(f"{name:28}{figures}{'':6}({time.perf_counter() - began:.0f} s)", flush=True)
    return results


def options(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5, help="of each model (default: 5)")
    parser.add_argument("--paragraphs", type=int, default=2000, help="to train on (default: 2,000)")
    given = parser.parse_args(arguments)
    for option in ("epochs", "paragraphs"):
        if getattr(given, option) < 1:
            parser.error(f"--{option} {getattr(given, option)} must be at least 1")
    return given


def words_of_tags(tags):
    """Labels of segments, the kind of a word where it begins; and whether no word is too long."""
    begins = np.flatnonzero(np.isin(tags, list(corpus.LEGAL_START)))
    lengths = np.diff(np.append(begins, len(tags)))
    labels = np.full(len(tags), -1, np.int32)
    labels[begins] = np.minimum(lengths, KINDS) - 1
    return labels, lengths.max() <= MAX_LENGTH


OF_CHARACTERS = {
    "num_tags": len(corpus.TAG_NAMES),
    "use_kernel": True,
    "learning_rate_multiplier": 10,
}
HEADS = {
    "CRF of characters": (lambda: CRF(**OF_CHARACTERS), lambda tags: (tags, True)),
    "second-order CRF": (lambda: SecondOrderCRF(**OF_CHARACTERS), lambda tags: (tags, True)),
    "semi-Markov CRF of words": (
        lambda: SemiMarkovCRF(KINDS, MAX_LENGTH, use_kernel=True, learning_rate_multiplier=10),
        words_of_tags,
    ),
}


def network(vocabulary_size, crf):
    characters = layers.Input((None,), dtype="int32")
    mask = ops.not_equal(characters, corpus.PADDING)
    valid = ops.cast(mask, "float32")[..., None]
    x = layers.Embedding(vocabulary_size + 2, 96)(characters) * valid
    for _ in range(2):
        x = layers.Conv1D(96, 3, padding="same", activation="relu")(x)
        x = layers.Dropout(0.2)(x) * valid
    return crf, keras.Model(characters, crf(x, mask=mask))


def train(crf, model, text, labels_of, epochs):
    """Train on the sentences whose words are short enough, each with the weight 1 / length."""
    pairs = [
        (characters, labels)
        for characters, tags in zip(text.characters, text.tags, strict=True)
        for labels, fits in [labels_of(tags)]
        if fits
    ]
    batches = Batches(*zip(*pairs, strict=True), "crf")
    rate = keras.optimizers.schedules.CosineDecay(4e-3, epochs * len(batches))
    model.compile(keras.optimizers.Adam(rate), crf.loss)
    model.fit(batches, epochs=epochs, verbose=0)


def score(decoder, paragraphs, vocabulary, has_four):
    """Precision, recall and F1 of words."""

    def decode(characters):
        found = decoder.predict_on_batch(characters)
        # a CRF finds b, m, e and s, a semi-Markov CRF where words begin
        return found if has_four else np.where(found < 0, corpus.MIDDLE, corpus.BEGIN)

    texts = ["".join(words) for words in paragraphs]
    found, _ = segment(texts, vocabulary, decode)
    return corpus.score(paragraphs, found)


if __name__ == "__main__":
    main()
