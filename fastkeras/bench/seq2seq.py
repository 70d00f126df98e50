"""The providers of one step of a beam search, `select`: our engines, and compositions of others.

A provider is a function problem → call; a call returns (scores, tokens, parents) as NumPy arrays.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastkeras.bench.crf_on_jax import check_backend
from fastkeras.seq2seq import select


class Problem(NamedTuple):
    """One step of a batch of sentences, in float32."""

    logits: Any  # (batch, beams, vocabulary)
    scores: Any  # (batch, beams), best first

    @property
    def num_candidates(self):
        _, beams, vocabulary = self.logits.shape
        return min(2, vocabulary) * beams


def draw(batch, beams, vocabulary, seed=0):
    """Logits have standard deviation 2: the best token of 8,192 has about 0.02 of all."""
    random = np.random.default_rng(seed)
    scores = -np.sort(random.exponential(3, (batch, beams))).astype(np.float32)
    return Problem(2 * random.standard_normal((batch, beams, vocabulary), np.float32), scores)


def numpy_engine(engine, problem):
    return lambda: select(*problem, problem.num_candidates, engine=engine)


def numpy_loop(problem):
    """What one would write with NumPy, one sentence after the other."""

    def one(logits, scores):
        peak = logits.max(axis=1, keepdims=True)
        log_z = np.log(np.exp(logits - peak).sum(axis=1, keepdims=True)) + peak
        totals = (scores[:, None] + logits - log_z).ravel()
        best = np.argpartition(-totals, problem.num_candidates - 1)[: problem.num_candidates]
        best = best[np.argsort(-totals[best], kind="stable")]
        return totals[best], best % logits.shape[1], best // logits.shape[1]

    def call():
        found = [one(*sentence) for sentence in zip(*problem, strict=True)]
        return tuple(map(np.stack, zip(*found, strict=True)))

    return call


def tensorflow_engine(engine, jit_compile, problem):
    import tensorflow as tf

    check_backend("tensorflow")
    k = problem.num_candidates
    step = tf.function(partial(select, num_candidates=k, engine=engine), jit_compile=jit_compile)
    return _call(step, problem, tf.constant)


def tensorflow_composite(jit_compile, problem):
    """What one would write with TensorFlow: log-softmax, sum, and one top_k over all beams."""
    import tensorflow as tf

    def step(logits, scores):
        vocabulary = logits.shape[2]
        totals = scores[..., None] + tf.nn.log_softmax(logits)
        totals = tf.reshape(totals, (logits.shape[0], -1))
        best, index = tf.math.top_k(totals, problem.num_candidates)
        return best, index % vocabulary, index // vocabulary

    return _call(tf.function(step, jit_compile=jit_compile), problem, tf.constant)


def torch_engine(engine, problem):
    import torch

    if engine == "keras":
        check_backend("torch")
    step = partial(select, num_candidates=problem.num_candidates, engine=engine)
    return _call(torch.no_grad()(step), problem, torch.from_numpy)


def torch_composite(problem):
    import torch

    def step(logits, scores):
        totals = scores[..., None] + torch.log_softmax(logits, -1)
        best, index = totals.flatten(1).topk(problem.num_candidates)
        return best, index % logits.shape[2], index // logits.shape[2]

    return _call(torch.no_grad()(step), problem, torch.from_numpy)


def jax_engine(engine, problem):
    import jax
    import jax.numpy as jnp

    if engine == "keras":
        check_backend("jax")
    step = partial(select, num_candidates=problem.num_candidates, engine=engine)
    return _call(jax.jit(step), problem, jnp.asarray)


def jax_composite(problem):
    import jax
    import jax.numpy as jnp

    def step(logits, scores):
        totals = scores[..., None] + jax.nn.log_softmax(logits)
        totals = totals.reshape(len(logits), -1)
        best, index = jax.lax.top_k(totals, problem.num_candidates)
        return best, index % logits.shape[2], index // logits.shape[2]

    return _call(jax.jit(step), problem, jnp.asarray)


def _call(step, problem, convert):
    arguments = [convert(array) for array in problem]
    return lambda: [np.asarray(array) for array in step(*arguments)]  # a view; waits for JAX


PROVIDERS = {
    "tensorflow_native": partial(tensorflow_engine, "tensorflow_native", False),
    "tensorflow_native, XLA": partial(tensorflow_engine, "tensorflow_native", True),
    "native": partial(numpy_engine, "native"),
    "torch_native": partial(torch_engine, "torch_native"),
    "jax_native": partial(jax_engine, "jax_native"),
    "numba": partial(numpy_engine, "numba"),
    "keras": partial(tensorflow_engine, "keras", False),
    "keras, XLA": partial(tensorflow_engine, "keras", True),
    "TensorFlow": partial(tensorflow_composite, False),
    "TensorFlow, XLA": partial(tensorflow_composite, True),
    "torch": torch_composite,
    "JAX": jax_composite,
    "NumPy loop": numpy_loop,
}


def check(problem, found):
    """Assert that the candidates are the best ones, and return the largest error of a score."""
    logits, sums = (array.astype(np.float64) for array in problem)
    peak = logits.max(axis=2, keepdims=True)
    log_p = logits - peak - np.log(np.exp(logits - peak).sum(axis=2, keepdims=True))
    totals = (sums[..., None] + log_p).reshape(len(logits), -1)
    k, vocabulary = problem.num_candidates, logits.shape[2]
    scores, tokens, parents = found
    best = -np.sort(-np.partition(totals, -k, axis=1)[:, -k:], axis=1)
    error = np.abs(scores - best).max()
    assert error <= 1e-5 * np.abs(best).max(), f"a score is wrong by {error}"
    chosen = np.take_along_axis(totals, parents.astype(int) * vocabulary + tokens, axis=1)
    lost = np.abs(chosen - best).max()  # two that are equal in float32 may change places
    assert lost <= 1e-5 * np.abs(best).max(), f"a candidate is {lost} worse than the best"
    same = [len(set(zip(*pair, strict=True))) for pair in zip(tokens, parents, strict=True)]
    assert min(same) == k, "a candidate is there twice"
    return {"error": float(error)}
