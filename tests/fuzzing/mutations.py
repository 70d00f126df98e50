"""What may be wrong with an argument: its shape, dtype, strides, values or type."""

import numpy as np

from fuzzing.optimizers import RULES

INTEGERS = (-1, 0, 1, 2, 3, 7, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, -(2**63), 2**64)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, 1e308, np.nan, np.inf, -np.inf)
OTHERS = (None, True, 1.5, "x", b"y", [], {}, (1, 2), [None], np.int64(5), np.float32(0), object())
DTYPES = [
    "f4",
    "f8",
    "f2",
    "i4",
    "i8",
    "u4",
    "i1",
    "u1",
    "?",
    "c8",
    ">f4",
    ">i4",
    "S3",
    "O",
    "M8[s]",
]


def mutated_array(rng, array):
    kind = rng.integers(16)
    axis = int(rng.integers(array.ndim)) if array.ndim else None
    if kind == 0 and array.ndim:
        return array.take(0, axis) if array.shape[axis] else array.reshape(-1)
    if kind == 1:
        return np.expand_dims(array, int(rng.integers(array.ndim + 1)))
    if kind == 2 and array.ndim:
        return np.concatenate([array, array.take([0], axis)], axis) if array.size else array
    if kind == 3 and array.ndim:
        return array.take(range(max(array.shape[axis] - 1, 0)), axis)
    if kind == 4 and array.ndim:
        return array.take([], axis)
    if kind == 5:
        return array.T
    if kind == 6:
        with np.errstate(all="ignore"):
            return array.astype(str(rng.choice(DTYPES)))
    if kind == 7 and array.ndim:
        return np.repeat(array, 2, axis)[(slice(None),) * axis + (slice(None, None, 2),)]
    if kind == 8 and array.ndim:
        return np.flip(array, axis)
    if kind == 9:
        return np.broadcast_to(array.reshape(-1)[0], array.shape) if array.size else array
    if kind == 10:
        array = array.copy()
        array.flags.writeable = False
        return array
    if kind == 11:
        return np.asfortranarray(array)
    if kind == 12:
        memory = np.zeros(array.nbytes + 1, "u1")[1:]
        view = memory.view(array.dtype).reshape(array.shape)
        view[...] = array
        return view
    if kind == 13:
        return np.zeros((), array.dtype)
    array = array.copy()
    if array.size:
        values = FLOATS if array.dtype.kind == "f" else INTEGERS
        chosen = rng.random(array.shape) < (0.1 if rng.random() < 0.5 else 0.9)
        value = values[rng.integers(len(values))]
        if array.dtype.kind in "iu":
            info = np.iinfo(array.dtype)
            value = int(np.clip(value, info.min, info.max))
        with np.errstate(all="ignore"):
            array[chosen] = value
    return array


def mutated(rng, value, arguments):
    if rng.random() < 0.08:
        return OTHERS[rng.integers(len(OTHERS))]
    if rng.random() < 0.04:  # another argument, possibly the very same memory
        return list(arguments.values())[rng.integers(len(arguments))]
    if isinstance(value, np.ndarray):
        return mutated_array(rng, value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, np.integer)):
        return INTEGERS[rng.integers(len(INTEGERS))]
    if isinstance(value, float):
        return FLOATS[rng.integers(len(FLOATS))]
    if isinstance(value, str):
        return ("", "\0", "adam" * 9, *RULES)[rng.integers(3 + len(RULES))]
    if isinstance(value, bytes):
        return (value[::-1], b"", b"a" * 100, bytearray(value), value.decode("latin1"))[
            rng.integers(5)
        ]
    if isinstance(value, (list, tuple)) and value:
        value, i = list(value), int(rng.integers(len(value)))
        if rng.random() < 0.2:
            value.insert(i, value[i])
        elif rng.random() < 0.2:
            del value[i]
        else:
            value[i] = mutated(rng, value[i], arguments)
        return value
    return np.zeros((2, 3), "f4")  # replaces None
