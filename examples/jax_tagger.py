"""A tagger in JAX without Keras: Chinese words by Equinox, Optax and fastkeras.crf.

A small network is trained twice to cut the People's Daily into words, with a softmax for each
character and with a CRF, whose loss, gradient and decoding are C++ kernels inside of jax.jit.
"""

import argparse
import time

import equinox as eqx
import jax
import numpy as np
import optax
import peoples_daily as corpus
from jax import numpy as jnp

from fastkeras import crf

HEADS = ("softmax", "crf")
STEPS, WIDTH, BATCH, TAGS = 64, 96, 64, len(corpus.TAG_NAMES)


class Tagger(eqx.Module):
    """Characters (steps,) of one sentence → scores of the tags (steps, tags)."""

    embedding: eqx.nn.Embedding
    convolutions: list
    scores: eqx.nn.Linear
    transitions: jax.Array

    def __init__(self, characters, key):
        first, last, *inner = jax.random.split(key, 4)
        self.embedding = eqx.nn.Embedding(characters, WIDTH, key=first)
        self.convolutions = [eqx.nn.Conv1d(WIDTH, WIDTH, 3, padding=1, key=k) for k in inner]
        self.scores = eqx.nn.Linear(WIDTH, TAGS, key=last)
        self.transitions = jnp.zeros((TAGS, TAGS))

    def __call__(self, characters):
        valid = characters != corpus.PADDING
        x = jax.vmap(self.embedding)(characters).T * valid
        for convolution in self.convolutions:
            x = jax.nn.relu(convolution(x)) * valid
        return jax.vmap(self.scores)(x.T)


def loss(model, head, characters, tags):
    """The mean of the sentences' negative log-likelihoods."""
    emissions, valid = jax.vmap(model)(characters), characters != corpus.PADDING
    if head == "crf":
        lengths = valid.sum(1)
        return -crf.log_likelihood(emissions, tags, model.transitions, lengths).mean()
    of_steps = optax.softmax_cross_entropy_with_integer_labels(emissions, tags)
    return (of_steps * valid).sum(1).mean()


def train(head, text, vocabulary_size, epochs, seed):
    model = Tagger(vocabulary_size, jax.random.key(seed))
    total, order = epochs * (len(text[0]) // BATCH), np.random.default_rng(seed)
    adam = optax.adam(optax.cosine_decay_schedule(4e-3, total))
    states = adam.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit(donate="all")
    def step(model, states, characters, tags):
        gradients = eqx.filter_grad(loss)(model, head, characters, tags)
        updates, states = adam.update(gradients, states)
        return eqx.apply_updates(model, updates), states

    for _ in range(epochs):
        shuffled = order.permutation(len(text[0]))[: total // epochs * BATCH]
        for batch in shuffled.reshape(-1, BATCH):
            model, states = step(model, states, *(array[batch] for array in text))
    return model


def f1(model, head, text):
    """The F1 of words; a word is right if both its ends are."""

    @eqx.filter_jit
    def decode(characters):
        emissions, lengths = jax.vmap(model)(characters), (characters != corpus.PADDING).sum(1)
        if head == "crf":
            return crf.viterbi(emissions, model.transitions, lengths)[0]
        return emissions.argmax(2)

    characters, true = text
    found = np.asarray(decode(characters))
    lengths = (characters != corpus.PADDING).sum(1)
    words = [
        [
            corpus.words_of(row[:n], tags[:n])
            for row, tags, n in zip(characters, of, lengths, strict=True)
        ]
        for of in (true, found)
    ]
    return corpus.score(*words)[2]


def text_of(paragraphs, vocabulary):
    """Padded characters and tags (pieces, steps) of sentences, long ones cut into pieces."""
    sentences = zip(*corpus.labelled_sentences(paragraphs, vocabulary), strict=True)
    cut = [
        pair[:, i : i + STEPS]
        for pair in map(np.stack, sentences)
        for i in range(0, pair.shape[1], STEPS)
    ]
    padded = np.zeros((len(cut), 2, STEPS), np.int32)  # corpus.PADDING, and any tag
    for row, pair in zip(padded, cut, strict=True):
        row[:, : pair.shape[1]] = pair
    return padded[:, 0], padded[:, 1]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paragraphs", type=int, default=6000, help="to train on (default: 6,000)")
    parser.add_argument("--epochs", type=int, default=4, help="(default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    given = parser.parse_args(arguments)
    if min(given.paragraphs, given.epochs) < 1:
        parser.error("--paragraphs and --epochs must be at least 1")
    training, _, test = corpus.split_by_position(corpus.read_paragraphs())
    training = training[: given.paragraphs]
    vocabulary = corpus.vocabulary_of(training)
    texts = [text_of(paragraphs, vocabulary) for paragraphs in (training, test)]
    counts = [len(characters) for characters, _ in texts]
    print(f"{counts[0]:,} sentences to train on, {counts[1]:,} of later days to cut")
    print(f"{'head':8} word F1   seconds of training, with compiling")
    found = {}
    for head in HEADS:
        start = time.perf_counter()
        model = train(head, texts[0], len(vocabulary) + 2, given.epochs, given.seed)
        seconds, found[head] = time.perf_counter() - start, f1(model, head, texts[1])
        print(f"{head:8} {found[head]:7.4f}   {seconds:5.1f}")
    return found


if __name__ == "__main__":
    main()
