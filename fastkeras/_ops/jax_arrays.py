"""The functions of keras.ops for JAX arrays, without Keras: jax.numpy, and what it lacks."""

import jax
import numpy as np
from jax import numpy as jnp


def __getattr__(name):
    return getattr(jnp, name)


def convert_to_tensor(value, dtype=None):
    """The value, which may be a Keras variable or a list, as an array."""
    if type(value).__module__.partition(".")[0] == "keras":
        value = value.value
    return jnp.asarray(value, dtype)


def convert_to_numpy(array):
    """A NumPy array."""
    return np.asarray(array)


def cast(array, dtype):
    """The array in this dtype."""
    return jnp.asarray(array, dtype)


def shape(array):
    """The shape as a tuple of numbers."""
    return array.shape


def stop_gradient(array):
    """The array, as a constant."""
    return jax.lax.stop_gradient(array)


def cond(condition, if_true, if_false):
    """The result of one of the two functions."""
    return jax.lax.cond(condition, if_true, if_false)


def map(function, array):
    """The function of each row of the array."""
    return jax.lax.map(function, array)


def while_loop(condition, body, values):
    """The values after `body`, repeated while the condition holds."""
    return jax.lax.while_loop(
        lambda values: condition(*values), lambda values: tuple(body(*values)), tuple(values)
    )


def slice_update(array, starts, values):
    """The array with these values from `starts` on."""
    return jax.lax.dynamic_update_slice(array, values, starts)


def uniform(shape, dtype, seed=None):
    """Numbers in 0 ≤ u < 1; the seed is a key of jax.random, an integer, or None for any."""
    if not isinstance(seed, jax.Array):
        seed = jax.random.key(np.random.default_rng().integers(2**31) if seed is None else seed)
    return jax.random.uniform(seed, shape, dtype)
