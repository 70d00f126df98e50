"""Nested names in Chinese news: every span of a sentence gets a score for each type.

python examples/nested_names.py                 train four models, evaluate (under two minutes)
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import peoples_daily as corpus
from keras import layers, ops
from segment_training import two_lengths_first

from fastkeras.layers import (
    EfficientGlobalPointer,
    GatedAttentionUnit,
    GlobalPointer,
    RelativeMultiHeadAttention,
    Rematerialize,
)
from fastkeras.losses import SpanCrossentropy
from fastkeras.tagging import decode_spans, span_labels

TYPES = ["person", "surname", "place", "organisation", "title"]
OF_TAG = {"ns": "place", "nt": "organisation"}
LONGEST = 40  # characters of a sentence


def main(arguments=None):
    given = options(arguments)
    keras.utils.set_random_seed(0)
    training, _, test = corpus.split_by_position(corpus.read_paragraphs(parse=tagged_words))
    training, test = (
        [sentence for paragraph in part for sentence in sentences_of(paragraph)]
        for part in (training[:: given.every], test[:: min(given.every, 2)])
    )
    vocabulary = corpus.vocabulary_of([[text] for text, _ in training])
    count, inner = len(spans_in(test)), len(nested_in(test))
    print(
        f"{len(training):,} sentences to train on, {len(test):,} to test, with {count:,} spans, "
        f"{inner:,} of them inside others\n\n{'':32}precision   recall       F1   inner ones found"
    )
    results = {}
    for name, (layer, encoder) in MODELS.items():
        began = time.perf_counter()
        model = train(layer, encoder, training, vocabulary, given.epochs)
        results[name] = scores_of(test, found_by(model, test, vocabulary))
        figures = "".join(f"{value:9.4f}" for value in results[name])
        seconds = time.perf_counter() - began
        print(f"{name:32}{figures}{'':10}({model.count_params():,} weights, {seconds:.0f} s)")
    outermost = scores_of(test, [spans - inner_ones(spans) for _, spans in test])
    print(f"{'outermost spans, perfect':32}{''.join(f'{value:9.4f}' for value in outermost)}")
    return results


def options(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=6, help="of each model (default: 6)")
    parser.add_argument(
        "--every", type=int, default=16, help="train on one paragraph of so many (default: 16)"
    )
    given = parser.parse_args(arguments)
    for option in ("epochs", "every"):
        if getattr(given, option) < 1:
            parser.error(f"--{option} {getattr(given, option)} must be at least 1")
    return given


def tagged_words(line):
    """The words of a line, each with its part of speech."""
    pairs = (token.rpartition("/") for token in line.split())
    return [(corpus.normalise(word), tag) for word, _, tag in pairs]


def sentences_of(paragraph):
    """Its sentences of up to 40 characters: (text, set of spans (first, last, type))."""
    text, spans = "".join(word for word, _ in paragraph), spans_of(paragraph)
    start = 0
    for piece in corpus.sentences(text):
        end = start + len(piece)
        if len(piece) <= LONGEST:
            inside = {(m - start, n - start, k) for m, n, k in spans if start <= m and n < end}
            yield piece, inside
        start = end


def spans_of(paragraph):
    """Places and organisations are words; a person is a surname and a name, or one word."""
    starts = np.cumsum([0, *(len(word) for word, _ in paragraph)]).tolist()
    spans, opened = set(), []
    for i, (word, tag) in enumerate(paragraph):
        span = starts[i], starts[i + 1] - 1
        if tag in OF_TAG:
            spans.add((*span, OF_TAG[tag]))
        elif tag == "nr" and (i == 0 or paragraph[i - 1][1] != "nr"):
            both = i + 1 < len(paragraph) and paragraph[i + 1][1] == "nr"
            spans.add((starts[i], starts[i + 1 + both] - 1, "person"))
            if both:
                spans.add((*span, "surname"))
        elif word == "《":
            opened.append(span[0])
        elif word == "》" and opened:
            spans.add((opened.pop(), span[1], "title"))
    return spans


def train(layer, encoder, sentences, vocabulary, epochs):
    characters = layers.Input((None,), dtype="int32")
    mask = ops.not_equal(characters, corpus.PADDING)
    valid = ops.cast(mask, "float32")[..., None]
    x = encoder(layers.Embedding(len(vocabulary) + 2, 96)(characters) * valid, mask, valid)
    model = keras.Model(characters, layer(len(TYPES), head_size=32)(x, mask=mask))
    batches = Batches(sentences, vocabulary)
    rate = keras.optimizers.schedules.CosineDecay(4e-3, epochs * len(batches))
    model.compile(keras.optimizers.Adam(rate), SpanCrossentropy())
    model.fit(batches, epochs=epochs, verbose=0)
    return model


def convolved(x, mask, valid, times=3):
    """A character and its neighbours."""
    for _ in range(times):
        x = layers.Dropout(0.2)(layers.Conv1D(96, 3, padding="same", activation="relu")(x)) * valid
    return x


def attended(x, mask, valid):
    """The same once, and then the whole sentence."""
    x = convolved(x, mask, valid, times=1)
    for _ in range(2):
        unit = GatedAttentionUnit(key_dim=32, dropout=0.2)
        x = layers.LayerNormalization()(x + unit(x, mask=mask))
    return x


def related(x, mask, valid):
    """The same by attention of four heads, whose activations are computed again, not kept."""
    x = convolved(x, mask, valid, times=1)
    for _ in range(2):
        attention = Rematerialize(RelativeMultiHeadAttention(4, 24, dropout=0.2))
        x = layers.LayerNormalization()(x + attention(x, x, query_mask=mask, value_mask=mask))
    return x


MODELS = {
    "GlobalPointer": (GlobalPointer, convolved),
    "EfficientGlobalPointer": (EfficientGlobalPointer, convolved),
    "GlobalPointer, gated attention": (GlobalPointer, attended),
    "GlobalPointer, four heads": (GlobalPointer, related),
}


class Batches(keras.utils.PyDataset):
    """Sentences of similar length together, all padded to one of a few lengths.

    Their spans are padded to the most that one has, so that Keras finds all labels of one shape.
    """

    def __init__(self, sentences, vocabulary, size=32):
        super().__init__()
        by_length = sorted(sentences, key=lambda sentence: len(sentence[0]))
        self.batches = [by_length[i : i + size] for i in range(0, len(by_length), size)]
        self.most_spans = max(len(spans) for _, spans in sentences)
        self.vocabulary, self.random = vocabulary, np.random.default_rng(0)
        self.on_epoch_end()

    def __len__(self):
        return len(self.batches)

    def on_epoch_end(self):
        lengths = [padded_length([text for text, _ in batch]) for batch in self.batches]
        order = self.random.permutation(len(self.batches))
        self.order = two_lengths_first(order, np.array(lengths))

    def __getitem__(self, index):
        texts, spans = zip(*self.batches[self.order[index]], strict=True)
        labels = np.full((len(spans), self.most_spans, 3), -1, np.int32)
        found = span_labels([sorted(of_text) for of_text in spans], TYPES)[:, : self.most_spans]
        labels[:, : found.shape[1]] = found
        return padded(texts, self.vocabulary), labels


def padded_length(texts):
    return -(-max(map(len, texts)) // 20) * 20  # few shapes, few compilations


def padded(texts, vocabulary):
    numbers = np.full((len(texts), padded_length(texts)), corpus.PADDING, np.int32)
    for row, of_text in zip(numbers, corpus.encode(texts, vocabulary), strict=True):
        row[: len(of_text)] = of_text
    return numbers


def found_by(model, sentences, vocabulary, size=64):
    found = []
    for i in range(0, len(sentences), size):
        texts = [text for text, _ in sentences[i : i + size]]
        scores = model.predict_on_batch(padded(texts, vocabulary))
        spans = decode_spans(scores, overlap="nested", names=TYPES)
        found += [{span[:3] for span in of_text} for of_text in spans]
    return found


def scores_of(sentences, found):
    """Precision, recall and F1 of all spans, and the recall of those inside others."""
    found = {(i, *span) for i, spans in enumerate(found) for span in spans}
    true, inner = spans_in(sentences), nested_in(sentences)
    right = len(true & found)
    f1 = 2 * right / max(len(true) + len(found), 1)
    recall_of_inner = len(inner & found) / max(len(inner), 1)
    return right / max(len(found), 1), right / max(len(true), 1), f1, recall_of_inner


def spans_in(sentences):
    return {(i, *span) for i, (_, spans) in enumerate(sentences) for span in spans}


def nested_in(sentences):
    return {(i, *span) for i, (_, spans) in enumerate(sentences) for span in inner_ones(spans)}


def inner_ones(spans):
    """Those inside of another."""
    return {a for a in spans if any(b != a and b[0] <= a[0] and a[1] <= b[1] for b in spans)}


if __name__ == "__main__":
    main()
