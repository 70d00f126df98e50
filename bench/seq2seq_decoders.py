"""Whole searches with one GRU decoder, by ours and by what one would write otherwise.

Each provider is a function problem → call; a call returns (tokens, log-likelihoods), of the best
sequence of `STEPS` tokens and the end for each sentence.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

STEPS, BEAMS, START, END = 32, 4, 2, 3
ARTICLES = 2  # so many sentences are enough to time the decoder that computes everything again


class Problem(NamedTuple):
    """A decoder with random weights, and encoded sources."""

    decoder: Any  # an AttentionDecoder
    encoded: Any  # float32 (batch, source steps, size)


def draw(batch=32, source=40, vocabulary=8192, size=256, seed=0):
    import keras

    from fastkeras.layers import AttentionDecoder

    keras.utils.set_random_seed(seed)
    cell = keras.layers.GRUCell(size)
    decoder = AttentionDecoder(vocabulary, cell, units=size)
    encoded = np.random.default_rng(seed).standard_normal((batch, source, size), np.float32)
    decoder.build((None, None), encoded.shape)
    for weight in decoder.trainable_weights:  # larger, so that some tokens are likelier than others
        weight.assign(3 * weight)
    return Problem(decoder, encoded)


def searching():
    from fastkeras.seq2seq import BeamSearch

    return BeamSearch(
        END, num_beams=BEAMS, min_length=STEPS, max_length=STEPS, suppressed=(0, 1, START)
    )


def whole(jit_compile, problem):
    """`BeamSearch` as one graph."""
    import tensorflow as tf

    decoder, search = problem.decoder, searching()

    @tf.function(jit_compile=jit_compile)
    def found(encoded):
        best = search(decoder.step, *decoder.begin(encoded), start=START)
        return best.tokens[:, 0, :STEPS], best.log_likelihoods[:, 0]

    encoded = tf.constant(problem.encoded)
    return lambda: [np.asarray(array) for array in found(encoded)]


def by_step(problem):
    """`BeamSearch` with a loop in Python, where only the step is a graph."""
    import tensorflow as tf

    decoder, search = problem.decoder, searching()
    step = tf.function(decoder.step, reduce_retracing=True)
    encoded = tf.constant(problem.encoded)

    def call():
        found = search(step, *decoder.begin(encoded), start=START)
        return np.asarray(found.tokens)[:, 0], np.asarray(found.log_likelihoods)[:, 0]

    return call


def composite(jit_compile, problem):
    """A while loop of TensorFlow operations that reorders states and sequences in each step."""
    import tensorflow as tf

    decoder, never = problem.decoder, tf.constant([0, 1, START, END])
    encoded = tf.constant(problem.encoded)
    batch, vocabulary = len(problem.encoded), decoder.vocabulary_size
    lowest = tf.reduce_max(tf.one_hot(never, vocabulary), axis=0) * -1e9

    @tf.function(jit_compile=jit_compile)
    def search(encoded):
        states, context = decoder.begin(encoded)
        states = [tf.repeat(state[:, None], BEAMS, axis=1) for state in states]
        scores = tf.constant([[0.0] + [-1e9] * (BEAMS - 1)] * batch)
        tokens = tf.fill((batch, BEAMS), START)
        history = tf.zeros((batch, BEAMS, STEPS), tf.int32)
        for t in tf.range(STEPS):
            logits, states, _ = decoder.step(tokens, states, context)
            log_p = tf.nn.log_softmax(logits) + lowest
            totals = tf.reshape(scores[..., None] + log_p, (batch, BEAMS * vocabulary))
            scores, index = tf.math.top_k(totals, BEAMS)
            parents, tokens = index // vocabulary, index % vocabulary
            states = [tf.gather(state, parents, batch_dims=1) for state in states]
            history = tf.gather(history, parents, batch_dims=1)
            history = tf.where(tf.range(STEPS) == t, tokens[..., None], history)
        log_p = tf.nn.log_softmax(decoder.step(tokens, states, context)[0])[..., END]
        best = tf.argmax(scores + log_p, axis=1)
        return (
            tf.gather(history, best, batch_dims=1),
            tf.gather(scores + log_p, best, batch_dims=1),
        )

    return lambda: [np.asarray(array) for array in search(encoded)]


def article(problem):
    """As in the article: one sentence at a time, and in each step all steps once more.

    Only for the first `ARTICLES` sentences.
    """
    import tensorflow as tf

    model = tf.function(problem.decoder.__call__, reduce_retracing=True)

    def one(encoded):
        beams, scores = np.full((BEAMS, 1), START, np.int32), np.zeros(BEAMS)
        encoded = np.repeat(encoded[None], BEAMS, axis=0)
        for t in range(STEPS + 1):
            logits = np.asarray(model(tf.constant(beams), tf.constant(encoded)))[:, -1]
            log_p = logits - logits.max(axis=1, keepdims=True)
            log_p = log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))
            if t == STEPS:
                scores = scores + log_p[:, END]
                break
            log_p[:, [0, 1, START, END]] = -np.inf
            totals = scores[:, None] + log_p
            if t == 0:
                totals[1:] = -np.inf  # all are equal
            best = np.argsort(-totals.ravel())[:BEAMS]
            scores, parents = totals.ravel()[best], best // log_p.shape[1]
            beams = np.concatenate([beams[parents], (best % log_p.shape[1])[:, None]], axis=1)
            beams = beams.astype(np.int32)
        return beams[scores.argmax(), 1:], scores.max()

    def call():
        found = [one(encoded) for encoded in problem.encoded[:ARTICLES]]
        return tuple(map(np.stack, zip(*found, strict=True)))

    return call


PROVIDERS = {
    "fastkeras": partial(whole, False),
    "fastkeras, XLA": partial(whole, True),
    "fastkeras, step by step": by_step,
    "TensorFlow": partial(composite, False),
    "TensorFlow, XLA": partial(composite, True),
    "article": article,
}


def check(problem, found):
    """Assert that log-likelihoods are those of the model, and return the largest error, relative.

    Two searches may differ where two sequences are almost equally likely: `same` compares them.
    """
    tokens, log_p = found
    number = len(tokens)
    given = np.concatenate([np.full((number, 1), START), tokens], axis=1).astype(np.int32)
    following = np.concatenate([tokens, np.full((number, 1), END)], axis=1)
    logits = np.asarray(problem.decoder(given, problem.encoded[:number])).astype(np.float64)
    logits -= logits.max(axis=2, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=2, keepdims=True))
    exact = np.take_along_axis(logits, following[..., None], axis=2).sum(axis=(1, 2))
    error = np.abs(log_p / exact - 1).max()
    assert error < 1e-4, f"a log-likelihood is wrong by {error} of it"
    return {"error": float(error)}


def same(found, other):
    """The share of sentences whose tokens are the same, and that of the better scores."""
    number = min(len(found[0]), len(other[0]))
    equal = (np.asarray(found[0])[:number] == np.asarray(other[0])[:number]).all(axis=1)
    close = np.abs(np.asarray(found[1])[:number] / np.asarray(other[1])[:number] - 1) < 1e-4
    return float((equal | close).mean())
