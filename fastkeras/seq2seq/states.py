"""The states that a step function passes to the next step: arrays in dicts, lists and tuples."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from fastkeras._arrays import array_functions, family_of, has_values

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor


def map_arrays(function, states):
    """The same structure, with function(array) in place of each array; None stays."""
    if states is None:
        return None
    if isinstance(states, dict):
        return {name: map_arrays(function, value) for name, value in states.items()}
    if isinstance(states, (list, tuple)):
        values = [map_arrays(function, value) for value in states]
        return type(states)(*values) if hasattr(states, "_fields") else type(states)(values)
    return function(states)


def arrays_of(*states):
    """All arrays of these structures, in order."""
    found = []
    for structure in states:
        map_arrays(found.append, structure)
    return found


def batch_of(start, *states):
    """The number of sentences, from the start tokens and the arrays, which all have to agree.

    A number in a graph, if none of the arrays has a known one.
    """
    if isinstance(start, (list, tuple)):
        start = np.asarray(start)
    named = {"start": start} if len(getattr(start, "shape", ())) else {}
    for i, array in enumerate(arrays_of(*states)):
        if len(array.shape) == 0:
            raise ValueError("states and context must be arrays of shape (batch, …), got a number")
        named[f"array {i} of states and context"] = array
    if not named:
        raise ValueError("start must be an array of shape (batch,) without states and context")
    sizes = {name: array.shape[0] for name, array in named.items() if array.shape[0] is not None}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"start, states and context must agree on the batch, got {sizes}")
    if sizes:
        return next(iter(sizes.values()))
    array = next(iter(named.values()))
    return array_functions(array).shape(array)[0]


def like_structure(states, arrays):
    """The same structure with other arrays, in the order of `arrays_of`."""
    others = iter(arrays)
    return map_arrays(lambda _: next(others), states)


def gathered(arrays, array, index):
    """(rows, n, …) by int32 (rows, m) → (rows, m, …): for each row, these of its n."""
    rows, n, *rest = arrays.shape(array)
    m = index.shape[1]
    place = arrays.arange(rows, dtype="int32")[:, None] * n + index
    flat = arrays.reshape(array, (rows * n, *rest))
    flat = arrays.take(flat, arrays.reshape(place, (-1,)), axis=0)
    return arrays.reshape(flat, (rows, m, *rest))


def repeated(states, times):
    """(batch, …) → (batch, times, …), repeated for each hypothesis of a sentence."""

    def repeat(array):
        ops = array_functions(array)
        return ops.repeat(ops.convert_to_tensor(array)[:, None], times, axis=1)

    return map_arrays(repeat, states)


def reordered(states, parents):
    """The states of the parents: (batch, beams, …) by int32 (batch, new_beams)."""
    return map_arrays(
        lambda array: gathered(array_functions(array), array, _like(parents, array)), states
    )


def kept(states, rows):
    """The states of these sentences."""
    return map_arrays(
        lambda array: array_functions(array).take(array, _like(rows, array), axis=0), states
    )


def like_states(array, *states):
    """A NumPy array, converted to the family of the arrays in `states`; tensors stay."""
    arrays = arrays_of(*states)
    return _like(array, arrays[0]) if arrays else array


def to_numpy(array):
    """The array, of any family, as a NumPy array."""
    return array_functions(array).convert_to_numpy(array)


def _like(array, other):
    if family_of(other) == "numpy" or family_of(array) != "numpy":
        return array
    return array_functions(other).convert_to_tensor(np.asarray(array, SMALLER.get(array.dtype)))


SMALLER = {np.dtype("int64"): "int32"}  # places in arrays


def step_number(ancestry: Tensor) -> Any:
    """The number of a search's step, from the ancestry that a model's step gets.

    Args:
        ancestry: int32, (batch, beams, steps): see `BeamSearch`.

    Returns:
        An integer; in a compiled program an int32 of it.

    Example:
        >>> import numpy as np
        >>> from fastkeras.seq2seq import step_number
        >>> step_number(np.zeros((2, 4, 7), "int32"))
        6
    """
    if not is_traced(ancestry):
        return ancestry.shape[2] - 1
    arrays = array_functions(ancestry)
    has_been = arrays.any(ancestry >= 0, axis=(0, 1))
    return arrays.maximum(arrays.sum(arrays.cast(has_been, "int32")) - 1, 0)


def is_traced(*structures):
    """Whether the call is a part of a program of TensorFlow or JAX that is being traced."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and not tensorflow.executing_eagerly():
        return True
    return not all(map(has_values, arrays_of(*structures)))
