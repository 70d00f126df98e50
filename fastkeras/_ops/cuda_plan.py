"""The device that records: what the host does for kernels becomes a plan, to be run later by XLA.

csrc/doors/cuda_jax.cc runs plans, and describes their format.
"""

import hashlib
from functools import cache
from math import prod
from typing import NamedTuple

import numpy as np

from fastkeras._ops.records import ARRAY, Records, layout_of

VERSION = 1
MEMSET, LAUNCH = 0, 1
NOTHING, PLACE, NUMBER, BYTES = 0, 1, 2, 3
ALIGNMENT = 256


class Array:
    """An array that exists when the plan is run."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = tuple(map(int, shape)), np.dtype(dtype)
        self.bytes = prod(self.shape) * self.dtype.itemsize


class Plan(NamedTuple):
    """What a call of the handler needs.

    Attributes:
        words: the plan, int64.
        kernels: the kernels that it launches, pairs of `Kernels` and a name.
        workspace: size, in bytes, of a buffer to be given after the results.
    """

    words: np.ndarray
    kernels: tuple
    workspace: int

    @property
    def names(self):
        """The names under which the kernels are registered, as the handler takes them."""
        return "".join(f"{key_of(kernels, name)}\n" for kernels, name in self.kernels)


class Recorder:
    """A device on which nothing runs."""

    def __init__(self, parameter_bytes=4096):
        self.PARAMETER_BYTES = parameter_bytes  # as in fastkeras/_ops/cupy.py
        self.operations = []

    def empty(self, shape, dtype):
        """An array that is not initialized."""
        return Array(shape, dtype)

    def zeros(self, shape, dtype):
        """An array of zeros."""
        array = Array(shape, dtype)
        self.operations.append(array)
        return array

    def launch(self, kernels, name, blocks, threads, *arguments):
        """As `launch` of fastkeras/_ops/cupy.py."""
        blocks = blocks if isinstance(blocks, tuple) else (blocks,)
        if 0 not in blocks:
            self.operations.append((kernels, name, (*blocks, 1, 1)[:3], threads, arguments))

    def plan(self, inputs, results):
        """The plan, for arrays given as inputs, and as results what the host returned."""
        places = {id(array): (number, 0) for number, array in enumerate((*inputs, *results))}
        kernels, words, used = {}, [VERSION], 0

        def place(array):
            nonlocal used
            if id(array) not in places:
                places[id(array)] = len(inputs) + len(results), used
                used += -(-array.bytes // ALIGNMENT) * ALIGNMENT
            return (*places[id(array)], array.bytes)

        def encoded(argument):
            if argument is None:
                return (NOTHING,)
            if isinstance(argument, Array):
                return PLACE, *place(argument)
            if isinstance(argument, Records):
                return _encoded_bytes(argument, place)
            number = np.int32(argument) if isinstance(argument, int) else argument
            return NUMBER, int.from_bytes(number.tobytes(), "little", signed=True)

        for operation in self.operations:
            if isinstance(operation, Array):
                words += (MEMSET, *place(operation))
                continue
            of, name, blocks, threads, arguments = operation
            kernel = kernels.setdefault((of, name), len(kernels))
            words += (LAUNCH, kernel, *blocks, threads, len(arguments))
            for argument in arguments:
                words += encoded(argument)
        return Plan(np.array(words, np.int64), tuple(kernels), used)


def key_of(kernels, name):
    """A name of a kernel that depends on its source and on how it is compiled."""
    return f"{_hash_of(kernels)}/{name}"


@cache
def _hash_of(kernels):
    return hashlib.sha256("\0".join((*kernels.options, kernels.code)).encode()).hexdigest()[:32]


def _encoded_bytes(records, place):
    """A table that a kernel gets by value, whose addresses are not known yet."""
    layout = layout_of(records.fields)
    text = records.packed(lambda array: 0).tobytes()
    fixes = []
    for name, kind in records.fields:
        if kind == ARRAY:
            for row, array in enumerate(records.columns[name]):
                if array is not None:
                    fixes += (layout.fields[name][1] + row * layout.itemsize, *place(array))
    padded = text + bytes(-len(text) % 8)
    return BYTES, len(text), len(fixes) // 4, *np.frombuffer(padded, np.int64).tolist(), *fixes
