"""The providers that are measured on the CRF: our engines and other libraries, on one problem.

A provider is a function problem → {function: call}; a call runs once, waits for its result, and
returns it: "log-likelihood" the values; "gradient" the values and the gradients with respect to
emissions and transitions; "viterbi" the tags (batch, steps).
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastkeras import crf
from fastkeras.bench import crf_on_jax, crf_on_torch


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
    """Emissions have standard deviation 2, other scores 1; lengths are in [steps / 2, steps]."""
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

    crf_on_jax.check_backend("tensorflow")

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
    return {  # np.asarray makes a view; tensor.numpy() would add the time of a copy
        "log-likelihood": lambda: np.asarray(log_likelihood(x, a, start, end)),
        "gradient": lambda: [np.asarray(g) for g in gradient(x, a, start, end)[:3]],
        "viterbi": lambda: np.asarray(viterbi(x, a, start, end)),
    }


PROVIDERS = {
    "tensorflow_native": partial(tensorflow_engine, "tensorflow_native", False),
    "tensorflow_native, XLA": partial(tensorflow_engine, "tensorflow_native", True),
    "native": partial(numpy_engine, "native"),
    "numba": partial(numpy_engine, "numba"),
    "keras": partial(tensorflow_engine, "keras", False),
    "keras, XLA": partial(tensorflow_engine, "keras", True),
    "jax_native": partial(crf_on_jax.engine, "jax_native"),
    "keras on JAX": partial(crf_on_jax.engine, "keras"),
    "JAX scan": crf_on_jax.scan,
    "torch_native": partial(crf_on_torch.engine, "torch_native"),
    "keras on torch": partial(crf_on_torch.engine, "keras"),
    "pytorch-crf": crf_on_torch.pytorch_crf,
    "pytorch-crf, compiled": crf_on_torch.compiled_pytorch_crf,
}
OF_BACKEND = {  # for each backend, the providers measured in one process; the first is ours
    "tensorflow": (
        *("tensorflow_native", "tensorflow_native, XLA", "native", "numba", "keras"),
        *("keras, XLA", "pytorch-crf", "JAX scan"),
    ),
    "jax": ("jax_native", "native", "keras on JAX", "JAX scan"),
    "torch": ("torch_native", "native", "keras on torch", "pytorch-crf", "pytorch-crf, compiled"),
}
IN_LOG_SPACE = (  # these keep (steps, batch, num_tags, num_tags) numbers
    "pytorch-crf",
    "pytorch-crf, compiled",
    "JAX scan",
)
