"""Parts of speech of Chinese words, found by models that read characters.

python examples/subword_tagger.py               train four taggers, compare (under two minutes)

Words have tags, and a model reads what they consist of: here characters, elsewhere subwords. It
compares labels of −100 at all but the first character of a word, which the chain skips, with
`WordPooling`, which makes one vector of each word. The first of these models then reads whole
paragraphs in windows: without an overlap, and with one, where what the windows say is joined as
emissions, which one Viterbi decodes, or as probabilities of tags.
"""

import argparse
import logging
import os
import time
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import peoples_daily as corpus
from keras import layers, ops
from nested_names import tagged_words
from segment_training import padded, two_lengths_first

from fastkeras.crf import viterbi
from fastkeras.layers import CRF, WordPooling
from fastkeras.losses import CRFLoss
from fastkeras.tagging import document_windows, first_subwords, subword_labels, word_numbers

logging.getLogger("tensorflow").setLevel(logging.ERROR)  # of batches of many shapes

IGNORED = -100
LONGEST = 100  # characters of a sentence
WINDOW, OVERLAP = 32, 16
MODELS = {
    "labels of −100 after the first": None,
    "vector of the first character": "first",
    "vector of the last character": "last",
    "mean of all characters": "mean",
}


class Text(NamedTuple):
    """Sentences or paragraphs, each an array."""

    characters: Any
    word_numbers: Any  # of each character
    tags: Any  # of each word
    words: Any


def main(arguments=None):
    given = options(arguments)
    training, _, test = corpus.split_by_position(corpus.read_paragraphs(parse=parts_of_speech))
    training, test = training[: given.paragraphs], test[: max(given.paragraphs // 4, 1)]
    names = sorted({tag for paragraph in training for _, tag in paragraph})
    vocabulary = corpus.vocabulary_of([[word for word, _ in paragraph] for paragraph in training])
    sentences, test_sentences, paragraphs = (
        text_of(pieces, vocabulary, names)
        for pieces in (cut(training), cut(test), [p for p in test if p])
    )
    known = {word for words in sentences.words for word in words}
    count = sum(map(len, test_sentences.words))
    print(
        f"{len(sentences.words):,} sentences to train on, {len(test_sentences.words):,} with "
        f"{count:,} words to test, {len(names)} tags\n\n"
        f"{'words with the right tag':38}  all  unseen"
    )
    results, first = {}, None
    for name, pooling in MODELS.items():
        began = time.perf_counter()
        keras.utils.set_random_seed(0)
        crf, model = network(len(vocabulary), len(names), pooling)
        train(crf, model, sentences, pooling, given.epochs)
        results[name] = right(found_by(crf, model, test_sentences, pooling), test_sentences, known)
        show(name, results[name], f"  ({time.perf_counter() - began:.0f} s)")
        first = first or (crf, model)
    for name, (overlap, decode) in WINDOWS.items():
        results[name] = right(in_windows(*first, paragraphs, overlap, decode), paragraphs, known)
        show(name, results[name])
    return results


def options(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5, help="of each model (default: 5)")
    parser.add_argument("--paragraphs", type=int, default=1000, help="to train on (default: 1,000)")
    given = parser.parse_args(arguments)
    for option in ("epochs", "paragraphs"):
        if getattr(given, option) < 1:
            parser.error(f"--{option} {getattr(given, option)} must be at least 1")
    return given


def show(name, shares, more=""):
    print(f"  {name:36}{''.join(f'{share:7.3f}' for share in shares)}{more}", flush=True)


def parts_of_speech(line):
    """The words of a line, each with the first letter of its tag: n for all kinds of nouns."""
    return [(word, tag[:1].lower()) for word, tag in tagged_words(line) if word]


def cut(paragraphs):
    """The sentences of up to 100 characters."""
    sentences = []
    for paragraph in paragraphs:
        sentence = []
        for word, tag in paragraph:
            sentence.append((word, tag))
            if word[-1] in corpus.SENTENCE_END:
                sentences.append(sentence)
                sentence = []
        sentences.append(sentence)
    lengths = [sum(len(word) for word, _ in sentence) for sentence in sentences]
    return [s for s, n in zip(sentences, lengths, strict=True) if 0 < n <= LONGEST]


def text_of(pieces, vocabulary, names):
    words = [[word for word, _ in piece] for piece in pieces]
    numbers = {name: i for i, name in enumerate(names)}
    return Text(
        corpus.encode(["".join(of) for of in words], vocabulary),
        [np.repeat(np.arange(len(of)), [len(word) for word in of]) for of in words],
        [np.array([numbers.get(tag, 0) for _, tag in piece], np.int32) for piece in pieces],
        words,
    )


def network(vocabulary_size, num_tags, pooling):
    """Characters, and first characters or numbers of words → emissions of characters or words."""
    characters = layers.Input((None,), dtype="int32")
    of_words = layers.Input((None,), dtype="int32" if pooling else "bool")
    valid = ops.cast(ops.not_equal(characters, corpus.PADDING), "float32")[..., None]
    x = layers.Embedding(vocabulary_size + 2, 96)(characters) * valid
    for _ in range(3):
        x = layers.Conv1D(96, 3, padding="same", activation="relu")(x)
        x = layers.Dropout(0.2)(x) * valid
    crf = CRF(num_tags, use_kernel=True, learning_rate_multiplier=10)
    if pooling:
        return crf, keras.Model([characters, of_words], crf(WordPooling(pooling)([x, of_words])))
    return crf, keras.Model([characters, of_words], crf(x, mask=of_words))


class Batches(keras.utils.PyDataset):
    """Sentences of similar length together."""

    def __init__(self, text, pooling, size=32):
        super().__init__()
        by_length = np.argsort([len(sentence) for sentence in text.characters], kind="stable")
        self.batches = [by_length[i : i + size] for i in range(0, len(by_length), size)]
        self.text, self.pooling, self.random = text, pooling, np.random.default_rng(0)
        self.on_epoch_end()

    def __len__(self):
        return len(self.batches)

    def on_epoch_end(self):
        longest = [max(len(self.text.characters[i]) for i in batch) for batch in self.batches]
        order = self.random.permutation(len(self.batches))
        self.order = two_lengths_first(order, np.array(longest))

    def __getitem__(self, index):
        return inputs_and_labels(self.text, self.batches[self.order[index]], self.pooling)


def inputs_and_labels(text, members, pooling):
    characters = padded([text.characters[i] for i in members])
    numbers = word_numbers([text.word_numbers[i] for i in members])
    tags = [text.tags[i] for i in members]
    if not pooling:
        return (characters, first_subwords(numbers)), subword_labels(tags, numbers, IGNORED)
    labels = np.full_like(characters, IGNORED)
    for row, of_sentence in zip(labels, tags, strict=True):
        row[: len(of_sentence)] = of_sentence
    return (characters, numbers), labels


def train(crf, model, text, pooling, epochs):
    batches = Batches(text, pooling)
    rate = keras.optimizers.schedules.CosineDecay(4e-3, epochs * len(batches))
    model.compile(keras.optimizers.Adam(rate), CRFLoss(crf, ignore_class=IGNORED))
    model.fit(batches, epochs=epochs, verbose=0)


def found_by(crf, model, text, pooling, size=128):
    """The tags of the words of each sentence."""
    decoder, found = crf.decode(model), []
    for start in range(0, len(text.words), size):
        members = range(start, min(start + size, len(text.words)))
        inputs, labels = inputs_and_labels(text, members, pooling)
        tags = decoder.predict_on_batch(list(inputs))
        found += [row[is_word] for row, is_word in zip(tags, labels != IGNORED, strict=True)]
    return found


def in_windows(crf, model, text, overlap, decode):
    """The tags of the words of each paragraph, from what windows say of them."""
    windows = document_windows([len(of) for of in text.characters], WINDOW, overlap)
    firsts = [first_subwords(numbers[None])[0] for numbers in text.word_numbers]
    inputs = [windows.cut(text.characters), windows.cut(firsts)]
    emissions = model.predict(inputs, batch_size=128, verbose=0)
    found = decode(crf, windows, emissions, inputs[1], firsts)
    return [tags[is_first] for tags, is_first in zip(found, firsts, strict=True)]


def by_emissions(crf, windows, emissions, is_first, firsts):
    """One Viterbi over the emissions of each paragraph."""
    scores = {
        name: np.asarray(getattr(crf, name))
        for name in ("transitions", "start_transitions", "end_transitions")
    }
    for of_paragraph, mask in zip(windows.join(emissions), firsts, strict=True):
        yield viterbi(of_paragraph[None], mask=mask[None], **scores)[0][0]


def by_posterior(crf, windows, emissions, is_first, firsts):
    """The most probable tag of each step, by the mean of the windows' probabilities."""
    probabilities, _ = crf.marginals(emissions, mask=is_first)
    for of_paragraph in windows.join(ops.convert_to_numpy(probabilities)):
        yield of_paragraph.argmax(axis=-1)


WINDOWS = {  # what the table says: the overlap, and how the windows are joined
    "paragraphs, windows side by side": (0, by_emissions),
    f"windows that share {OVERLAP}": (OVERLAP, by_emissions),
    f"windows that share {OVERLAP}, by posterior": (OVERLAP, by_posterior),
}


def right(found, text, known):
    """The share of the words with the right tag, and that of those which training has not seen."""
    is_right = np.concatenate(found) == np.concatenate(text.tags)
    is_new = np.array([word not in known for words in text.words for word in words])
    return is_right.mean(), is_right[is_new].mean() if is_new.any() else np.nan


if __name__ == "__main__":
    main()
