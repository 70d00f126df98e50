"""The state of an optimizer in files of Keras, whose moments go into those of any bits."""

import numpy as np
from keras import ops

from fastkeras._arrays import NUMPY, as_numpy
from fastkeras.optimizers.fused import sharding
from fastkeras.optimizers.fused.scalars import WIDE
from fastkeras.optimizers.quantization import LAYOUT, check_layout, dequantize, quantize
from fastkeras.optimizers.rules import RULES

BEHIND = "behind"  # key under which the numbers of missed updates are saved
CODES = "moment_codes"  # key under which it is saved what 8-bit moments mean


def save(optimizer, store):
    """Put the variables of an optimizer of Keras into a store, and what they lack."""
    for i, variable in enumerate(_variables(optimizer)):
        store[str(i)] = numpy_of(variable)
    # Besides the variables of Keras save only what cannot be derived from them.
    behind = optimizer._settings and optimizer._settings.behind
    if behind is not None and not np.array_equal(numpy_of(behind), _behind_by_state(optimizer)):
        store[BEHIND] = numpy_of(behind)
    if optimizer._scales.of:
        store[CODES] = LAYOUT


def load(optimizer, store, marks=()):
    """Assign what is in a store; return False, with nothing changed, if it has other variables.

    Args:
        optimizer: a `Fused`.
        store: dict, or what Keras has in its place.
        marks: keys that are no variables, besides those above.
    """
    keys = set(store.keys())
    count = len(keys - {BEHIND, CODES, *marks})
    saved = list(_with_scales([store[str(i)] for i in range(count)]))
    of_moments = {id(scales) for scales in optimizer._scales.of.values()}
    variables = [v for v in _variables(optimizer) if id(v) not in of_moments]
    if len(saved) != len(variables):
        return False
    if any(scales is not None for _, scales in saved):
        check_layout(store[CODES] if CODES in keys else None)
    have_sign = _signs(optimizer)
    for variable, (value, scales) in zip(variables, saved, strict=True):
        own = optimizer._scales.of.get(id(variable))
        if own is not None and scales is None:
            value, scales = _in_codes(value, have_sign[id(variable)])
        elif own is None and scales is not None:
            value = dequantize(NUMPY, value, scales, have_sign[id(variable)])
        variable.assign(value)
        if own is not None:
            own.assign(scales)
    behind = optimizer._settings and optimizer._settings.behind
    if behind is not None:
        behind.assign(store[BEHIND] if BEHIND in keys else _behind_by_state(optimizer))
    return True


def _with_scales(values):
    """Yield each value, and the scales that follow it if it is codes, or None."""
    values = iter(values)
    for value in values:
        is_codes = str(value.dtype) == "uint8"
        yield (np.asarray(value), np.asarray(next(values))) if is_codes else (value, None)


def _in_codes(value, has_sign):
    """To the nearest, since there is no step here by whose number to round at random."""
    value = np.asarray(value).astype("float32")
    to_nearest = np.full(value.shape, 2**15, "int32")  # of 2**16 that random bits may be
    return quantize(NUMPY, value, has_sign, to_nearest)


def _signs(optimizer):
    """Whether what may be codes has a sign, by id of the variable."""
    signs, count = RULES[optimizer._rule()].signs, len(optimizer._trainable_variables)
    slots = (optimizer._slots(position) for position in range(count))
    pairs = (pair for held in slots for pair in zip(held, signs, strict=False))
    return {id(slot): sign == "s" for slot, sign in pairs}


def _variables(optimizer):
    beside = {id(variable) for variable in optimizer._beside_those_of_keras()}
    return [variable for variable in optimizer.variables if id(variable) not in beside]


def _behind_by_state(optimizer):
    """How many updates each variable has missed: all if it has no state yet, else none."""
    updates = int(numpy_of(optimizer.iterations))
    count = len(optimizer._trainable_variables)
    states = [optimizer._zeros_at_first(position) for position in range(count)]
    is_new = [not any(numpy_of(held).any() for held in state) for state in states]
    return np.where(is_new, updates, 0).astype(WIDE)


def numpy_of(variable):
    """The value of a variable, whole if devices have parts of it."""
    # A tensor, not the variable, whose conversion by Keras makes NumPy 2 warn on TensorFlow.
    return as_numpy(sharding.of_host(ops.stop_gradient(variable)))
