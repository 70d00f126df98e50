"""Slots in a file, for states that memory does not hold."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from fastkeras.optimizers.arguments import DTYPES
from fastkeras.optimizers.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Sequence

_ALIGNMENT = 64  # bytes, of a cache line


def slots_on_disk(
    rule: str, parameters: Sequence[np.ndarray], folder: str | os.PathLike[str]
) -> list[tuple[np.ndarray, ...]]:
    """Return slots for `update` that lie in a file, which the system reads and writes as needed.

    They are arrays of NumPy like any others. While memory is free the system keeps them there; when
    it is short, it writes them to the disk rather than kill the process. The whole file is reserved
    at once, so a disk too full is an error here and not in the middle of a training. It has no
    name: it is gone with the last of the arrays, or with the process, however that ends. So it is
    no checkpoint: to go on after a kill, save parameters and slots together now and then, as if
    they were in memory, and assign the saved ones (`slot[...] = saved`).

    On the CPU torch can use the same memory: `torch.from_numpy(slot)` as `exp_avg` and
    `exp_avg_sq` in the `state` of `fastkeras.compat.torch_optim.AdamW`.

    Args:
        rule: a key of `fastkeras.optimizers.rules.RULES`.
        parameters: list of NumPy arrays.
        folder: where the file is to be: on a disk, not in a file system in memory, as /tmp may be.

    Returns:
        For each parameter a tuple of arrays, one for each slot of the rule, float64 for a float64
        parameter and else float32: zeros, or what the parameter is now where a slot begins as that
        (`RULES[rule].starts`).

    Raises:
        ValueError: there is no such rule, or a parameter is no array of such a dtype.
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
    row, places, size = RULES[rule], [], 0
    for i, parameter in enumerate(parameters):
        if not isinstance(parameter, np.ndarray) or str(parameter.dtype) not in DTYPES:
            given = getattr(parameter, "dtype", type(parameter).__name__)
            raise ValueError(
                f"parameters[{i}] must be a NumPy array of {', '.join(DTYPES)}, got {given}"
            )
        dtype = np.dtype(np.float64 if parameter.dtype == np.float64 else np.float32)
        for name in row.slots:
            shape = tuple(row.shape_of_slot(name, parameter.shape))
            places.append((shape, dtype, size))
            size += -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
    memory = _reserved(size, folder)
    arrays = [
        np.frombuffer(memory, dtype, math.prod(shape), offset).reshape(shape)
        for shape, dtype, offset in places
    ]
    count = len(row.slots)
    for i, parameter in enumerate(parameters):
        for k, name in enumerate(row.slots):
            if name in row.starts:
                arrays[i * count + k][...] = parameter
    return [tuple(arrays[i * count : (i + 1) * count]) for i in range(len(parameters))]


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
