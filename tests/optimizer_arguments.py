"""Arguments of `update`, and arrays with unusual memory, for the tests of the doors."""

import numpy as np

from fastkeras.optimizers.rules import RULES


def numbers(*shape, dtype="float32", seed=0):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def good(rule="adam", shape=(4, 6), dtype="float32"):
    """Return valid arguments of `update`."""
    slots = tuple(
        np.array(np.abs(numbers(*shape, seed=k + 2))) for k, _ in enumerate(RULES[rule].slots)
    )
    return {
        "rule": rule,
        "parameters": [numbers(*shape, dtype=dtype)],
        "gradients": [numbers(*shape, dtype=dtype, seed=1)],
        "slots": [slots],
        "learning_rate": 0.1,
    }


def copied(arguments):
    """Return the arguments with copies of the arrays, contiguous and in C order."""

    def copy(value):
        if isinstance(value, (list, tuple)):
            return type(value)(map(copy, value))
        return np.array(value, order="C") if isinstance(value, np.ndarray) else value

    names = ("parameters", "gradients", "slots", "rows", "remainders")
    return {name: copy(v) if name in names else v for name, v in arguments.items()}


def written(arguments):
    return [*arguments["parameters"], *arguments["slots"][0]]


def strided(array, pad):
    """Return the same numbers in memory with `pad` others between any two."""
    wide = np.full((*array.shape[:-1], array.shape[-1] * (1 + pad)), 7, array.dtype)
    view = wide[..., :: 1 + pad]
    view[...] = array
    return view


def unaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    view = memory.view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array
