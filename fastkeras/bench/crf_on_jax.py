"""The CRF on JAX arrays: our engines and a version written by hand, as providers of crf.py."""

import numpy as np

from fastkeras import crf


def check_backend(name):
    """Raise ImportError if Keras, which has one backend per process, uses another than this."""
    import keras

    if keras.backend.backend() != name:
        raise ImportError(f"Keras is on {keras.backend.backend()}: set KERAS_BACKEND={name}")


def engine(engine, problem):
    """One of our engines, under jit; `jax_native` needs no Keras."""
    import jax.numpy as jnp

    if engine == "keras":
        check_backend("jax")
    x, tags, a, lengths, start, end = map(jnp.asarray, problem)

    def value(x, a, start, end):
        more = {"start_transitions": start, "end_transitions": end, "engine": engine}
        return crf.log_likelihood(x, tags, a, lengths, **more)

    def best_path(x, a, start, end):
        more = {"start_transitions": start, "end_transitions": end, "engine": engine}
        return crf.viterbi(x, a, lengths, **more)[0]

    return calls(value, best_path, (x, a, start, end))


def calls(value, best_path, scores):
    """The calls of a provider, made from functions of the scores."""
    import jax

    def total(*scores):
        values = value(*scores)
        return values.sum(), values

    log_likelihood, viterbi = jax.jit(value), jax.jit(best_path)
    value_and_gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3), has_aux=True))

    def gradient():
        (_, values), gradients = jax.block_until_ready(value_and_gradient(*scores))
        return [np.asarray(array) for array in (values, *gradients[:2])]

    return {  # np.asarray makes a view
        "log-likelihood": lambda: np.asarray(log_likelihood(*scores)),
        "gradient": gradient,
        "viterbi": lambda: np.asarray(viterbi(*scores)),
    }


def scan(problem):
    """What one would write by hand: the recursion in log space, as one `lax.scan`."""
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

    return calls(value, best_path, (x, a, start, end))
