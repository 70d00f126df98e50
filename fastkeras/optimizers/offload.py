"""Slots in a file, for states that memory does not hold."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from fastkeras.optimizers.arguments import DTYPES
from fastkeras.optimizers.quantization import is_worth_it, scales_of
from fastkeras.optimizers.rules import RULES, check_moment_bits

if TYPE_CHECKING:
    from collections.abc import Sequence

_ALIGNMENT = 64  # bytes, of a cache line


def slots_on_disk(
    rule: str,
    parameters: Sequence[np.ndarray],
    folder: str | os.PathLike[str],
    *,
    moment_bits: int = 32,
) -> list[tuple[np.ndarray, ...]]:
    """Return slots for `update` that lie in a file, which the system reads and writes as needed.

    They are arrays of NumPy like any others. While memory is free the system keeps them there; when
    it is short, it writes them to the disk rather than kill the process. The whole file is reserved
    at once, so a disk too full is an error here and not in the middle of a training. It has no
    name: it is gone with the last of the arrays, or with the process, however that ends. So it is
    no checkpoint: to go on after a kill, save parameters and slots together now and then, as if
    they were in memory, and assign the saved ones (`slot[...] = saved`).

    On the CPU torch can use the same memory: `torch.from_numpy(slot)` as `exp_avg` and
    `exp_avg_sq` in the `state` of `fastkeras.compat.torch_optim.AdamW`. It takes no bfloat16 from
    NumPy, but `torch.from_numpy(slot.view("int16")).view(torch.bfloat16)` is the same memory.

    Args:
        rule: a key of `fastkeras.optimizers.rules.RULES`.
        parameters: list of NumPy arrays.
        folder: where the file is to be: on a disk, not in a file system in memory, as /tmp may be.
        moment_bits: 32; or 16 or 8, for parameters of at least 4,096 numbers that are not float64.

    Returns:
        For each parameter a tuple of arrays, one for each slot of the rule, float64 for a float64
        parameter and else float32: zeros, or what the parameter is now where a slot begins as that
        (`RULES[rule].starts`). With 16 bits bfloat16, and with 8 two arrays for each slot: codes,
        and their scales.

    Raises:
        ValueError: there is no such rule, a parameter is no array of such a dtype, or the slots of
            the rule cannot be of so many bits.
        ModuleNotFoundError: 16 bits need the package ml_dtypes, which comes with Keras.
        OSError: there is no such folder, it must not be written to, or the disk has too little
            space; nothing is left there.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from fastkeras.optimizers import slots_on_disk, update
        >>> weights = [np.ones(3, np.float32)]
        >>> slots = slots_on_disk("adam", weights, tempfile.gettempdir())
        >>> update("adam", weights, [np.ones(3, np.float32)], slots, learning_rate=0.1)
        True
        >>> slots[0][0].round(3)
        array([0.1, 0.1, 0.1], dtype=float32)
    """
    if not isinstance(rule, str) or rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    check_moment_bits(rule, moment_bits)
    row, places, size = RULES[rule], [], 0
    for i, parameter in enumerate(parameters):
        if not isinstance(parameter, np.ndarray) or str(parameter.dtype) not in DTYPES:
            given = getattr(parameter, "dtype", type(parameter).__name__)
            raise ValueError(
                f"parameters[{i}] must be a NumPy array of {', '.join(DTYPES)}, got {given}"
            )
        for shape, dtype in _forms(row, parameter, moment_bits):
            places.append((shape, dtype, size))
            size += -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
    memory = _reserved(size, folder)
    arrays = [
        np.frombuffer(memory, dtype, math.prod(shape), offset).reshape(shape)
        for shape, dtype, offset in places
    ]
    slots, arrays = [], iter(arrays)
    for parameter in parameters:
        of_one = tuple(next(arrays) for _ in _forms(row, parameter, moment_bits))
        for slot, name in zip(of_one, row.slots, strict=False):  # of 8 bits, none is in `starts`
            if name in row.starts:
                slot[...] = parameter
        slots.append(of_one)
    return slots


def _forms(row, parameter, bits):
    """The shape and dtype of each array that a parameter's slots are."""
    is_double = parameter.dtype == np.float64
    bits = 32 if is_double or not is_worth_it(parameter.shape) else bits
    dtype = np.dtype(np.float64 if is_double else np.float32)
    forms = [(tuple(row.shape_of_slot(name, parameter.shape)), dtype) for name in row.slots]
    count = len(row.signs)  # the slots that may be narrow come first
    if bits == 8:
        scales = (scales_of(parameter.size),), np.dtype(np.float32)
        forms[:count] = [(parameter.shape, np.dtype(np.uint8)), scales] * count
    if bits == 16:
        import ml_dtypes

        forms[:count] = [(shape, np.dtype(ml_dtypes.bfloat16)) for shape, _ in forms[:count]]
    return forms


def _reserved(size, folder):
    """Return the memory of a new file of zeros without a name."""
    size = max(size, _ALIGNMENT)  # an empty file cannot be mapped
    with tempfile.TemporaryFile(prefix="fastkeras-slots-", dir=os.fspath(folder)) as file:
        try:
            if hasattr(os, "posix_fallocate"):
                # A file with holes would end the process by a signal where the disk is full.
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError as error:
            reason = f"folder: {size:,} bytes are needed for slots: {error.strerror}"
            raise OSError(error.errno, reason, os.fspath(folder)) from None
        return mmap.mmap(file.fileno(), size)
