"""Who is measured on the CRF: our engines and the peers, on one problem.

A provider is a function problem → {function: call}; a call runs once, waits for its result, and
returns it: "log-likelihood" the values; "gradient" the values and the gradients with respect to
emissions and transitions; "viterbi" the tags (batch, steps).
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastkeras import crf


class Problem(NamedTuple):
    """A batch of chains in float32."""

    emissions: Any  # (batch, steps, num_tags)
    tags: Any
    transitions: Any
    lengths: Any
    start_transitions: Any
    end_transitions: Any

    def valid(self):
        return np.arange(self.emissions.shape[1]) < self.lengths[:, None]

    def shortened(self, factor):
        """The first steps of the problem, 1 in `factor`, of every sequence."""
        steps = self.emissions.shape[1] // factor
        lengths = np.maximum(self.lengths // factor, 1)
        cut = {"emissions": self.emissions[:, :steps].copy(), "tags": self.tags[:, :steps].copy()}
        return self._replace(lengths=lengths, **cut)


def draw(batch, steps, num_tags, seed=0):
    """Emissions of standard deviation 2, all other scores 1, lengths in [steps / 2, steps]."""
    random = np.random.default_rng(seed)
    normal = partial(random.standard_normal, dtype=np.float32)
    lengths = random.integers(steps // 2, steps, batch, np.int32, endpoint=True)
    lengths[0] = steps
    return Problem(
        2 * normal((batch, steps, num_tags)),
        random.integers(0, num_tags, (batch, steps), np.int32),
        normal((num_tags, num_tags)),
        lengths,
        normal(num_tags),
        normal(num_tags),
    )


def numpy_engine(engine, problem):
    x, tags, a, lengths, start, end = problem
    chain = {"start_transitions": start, "end_transitions": end, "engine": engine}

    def gradient():
        value, gradients = crf.log_likelihood_and_gradients(x, tags, a, lengths, **chain)
        return value, gradients.emissions, gradients.transitions

    return {
        "log-likelihood": lambda: crf.log_likelihood(x, tags, a, lengths, **chain),
        "gradient": gradient,
        "viterbi": lambda: crf.viterbi(x, a, lengths, **chain)[0],
    }


def tensorflow_engine(engine, jit_compile, problem):
    import tensorflow as tf

    x, tags, a, lengths, start, end = map(tf.constant, problem)
    function = partial(tf.function, jit_compile=jit_compile)

    def value(x, a, start, end):
        return crf.log_likelihood(
            x, tags, a, lengths, start_transitions=start, end_transitions=end, engine=engine
        )

    @function
    def gradient(x, a, start, end):
        with tf.GradientTape() as tape:
            tape.watch([x, a, start, end])
            values = value(x, a, start, end)
            total = tf.reduce_sum(values)
        return values, *tape.gradient(total, [x, a, start, end])

    @function
    def viterbi(x, a, start, end):
        return crf.viterbi(
            x, a, lengths, start_transitions=start, end_transitions=end, engine=engine
        )[0]

    log_likelihood = function(value)
    return {  # np.asarray is a view; tensor.numpy() would add the time of a copy
        "log-likelihood": lambda: np.asarray(log_likelihood(x, a, start, end)),
        "gradient": lambda: [np.asarray(g) for g in gradient(x, a, start, end)[:3]],
        "viterbi": lambda: np.asarray(viterbi(x, a, start, end)),
    }


def pytorch_crf(problem):
    import torch
    from torchcrf import CRF

    x, tags, a, _, start, end = map(torch.from_numpy, problem)
    mask = torch.from_numpy(problem.valid())
    layer = CRF(x.shape[2], batch_first=True)
    with torch.no_grad():
        layer.transitions.copy_(a)
        layer.start_transitions.copy_(start)
        layer.end_transitions.copy_(end)
    tags = tags.long()
    x.requires_grad_()

    def log_likelihood():
        with torch.no_grad():
            return layer(x, tags, mask, reduction="none").numpy()

    def gradient():
        value = layer(x, tags, mask, reduction="none")
        variables = [x, layer.transitions, layer.start_transitions, layer.end_transitions]
        d_x, d_a, _, _ = torch.autograd.grad(value.sum(), variables)
        return value.detach().numpy(), d_x.numpy(), d_a.numpy()

    def viterbi():
        found = np.zeros(x.shape[:2], np.int32)
        for row, path in zip(found, layer.decode(x.detach(), mask), strict=True):
            row[: len(path)] = path
        return found

    return {"log-likelihood": log_likelihood, "gradient": gradient, "viterbi": viterbi}


def jax_scan(problem):
    """What one writes by hand: the recursion in log space, one `lax.scan`."""
    import jax
    import jax.numpy as jnp

    x, tags, a, lengths, start, end = map(jnp.asarray, problem)
    valid = jnp.asarray(problem.valid())

    def value(x, a, start, end):
        def step(alpha, inputs):
            x_t, valid_t = inputs
            after = jax.nn.logsumexp(alpha[:, :, None] + a, axis=1) + x_t
            return jnp.where(valid_t[:, None], after, alpha), None

        later = (x[:, 1:].swapaxes(0, 1), valid[:, 1:].T)
        alpha, _ = jax.lax.scan(step, start + x[:, 0], later)
        log_z = jax.nn.logsumexp(alpha + end, axis=1)
        unary = jnp.take_along_axis(x, tags[..., None], axis=2)[..., 0]
        pairs = a[tags[:, :-1], tags[:, 1:]]
        last = jnp.take_along_axis(tags, lengths[:, None] - 1, axis=1)[:, 0]
        gold = (unary * valid).sum(1) + (pairs * valid[:, 1:]).sum(1)
        return gold + start[tags[:, 0]] + end[last] - log_z

    def total(*scores):
        values = value(*scores)
        return values.sum(), values

    def best_path(x, a, start, end):
        def step(best, inputs):
            x_t, valid_t = inputs
            candidates = best[:, :, None] + a
            after = jnp.where(valid_t[:, None], candidates.max(1) + x_t, best)
            stay = jnp.arange(a.shape[0])
            return after, jnp.where(valid_t[:, None], candidates.argmax(1), stay)

        later = (x[:, 1:].swapaxes(0, 1), valid[:, 1:].T)
        best, pointers = jax.lax.scan(step, start + x[:, 0], later)

        def back(tag, pointers_t):
            before = jnp.take_along_axis(pointers_t, tag[:, None], axis=1)[:, 0]
            return before, tag

        last = (best + end).argmax(1)
        first, tags = jax.lax.scan(back, last, pointers, reverse=True)
        return jnp.where(valid, jnp.concatenate([first[None], tags]).T, 0)

    scores = (x, a, start, end)
    log_likelihood, viterbi = jax.jit(value), jax.jit(best_path)
    value_and_gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3), has_aux=True))

    def gradient():
        (_, values), gradients = jax.block_until_ready(value_and_gradient(*scores))
        return [np.asarray(array) for array in (values, *gradients[:2])]

    return {
        "log-likelihood": lambda: np.asarray(log_likelihood(*scores)),
        "gradient": gradient,
        "viterbi": lambda: np.asarray(viterbi(*scores)),
    }


PROVIDERS = {
    "tensorflow_native": partial(tensorflow_engine, "tensorflow_native", False),
    "tensorflow_native, XLA": partial(tensorflow_engine, "tensorflow_native", True),
    "native": partial(numpy_engine, "native"),
    "numba": partial(numpy_engine, "numba"),
    "keras": partial(tensorflow_engine, "keras", False),
    "keras, XLA": partial(tensorflow_engine, "keras", True),
    "pytorch-crf": pytorch_crf,
    "JAX scan": jax_scan,
}
IN_LOG_SPACE = ("pytorch-crf", "JAX scan")  # they keep (steps, batch, num_tags, num_tags) numbers
