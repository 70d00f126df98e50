"""The states that a step function passes to the next step: arrays in dicts, lists and tuples."""

import numpy as np

from fastkeras._arrays import array_functions, family_of


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
    """The number of sentences, from the start tokens and the arrays, which all have to agree."""
    sizes = {} if np.ndim(start) == 0 else {"start": len(start)}
    for i, array in enumerate(arrays_of(*states)):
        if len(array.shape) == 0:
            raise ValueError("states and context must be arrays of shape (batch, …), got a number")
        sizes[f"array {i} of states and context"] = array.shape[0]
    if not sizes:
        raise ValueError("start must be an array of shape (batch,) without states and context")
    if len(set(sizes.values())) > 1:
        raise ValueError(f"start, states and context must agree on the batch, got {sizes}")
    return next(iter(sizes.values()))


def repeated(states, times):
    """(batch, …) → (batch, times, …), repeated for each hypothesis of a sentence."""

    def repeat(array):
        ops = array_functions(array)
        return ops.repeat(ops.convert_to_tensor(array)[:, None], times, axis=1)

    return map_arrays(repeat, states)


def reordered(states, parents):
    """The states of the parents: (batch, beams, …) by int (batch, new_beams)."""
    beams = parents.shape[1]

    def reorder(array):
        ops, (batch, old_beams, *rest) = array_functions(array), array.shape
        rows = (np.arange(batch)[:, None] * old_beams + parents).reshape(-1)
        flat = ops.reshape(array, (batch * old_beams, *rest))
        return ops.reshape(ops.take(flat, _like(rows, array), axis=0), (batch, beams, *rest))

    return map_arrays(reorder, states)


def kept(states, rows):
    """The states of these sentences."""
    return map_arrays(
        lambda array: array_functions(array).take(array, _like(rows, array), axis=0), states
    )


def like_states(array, *states, dtype="int32"):
    """The array, converted to the family of the arrays in `states`, NumPy if there are none."""
    arrays = arrays_of(*states)
    return _like(array, arrays[0], dtype) if arrays else array


def to_numpy(array):
    """The array, of any family, as a NumPy array."""
    return array_functions(array).convert_to_numpy(array)


def _like(array, other, dtype="int32"):
    if family_of(other) == "numpy":
        return array
    return array_functions(other).convert_to_tensor(np.asarray(array, dtype))
