"""The checks of arguments that the training tools share."""

import numbers

import numpy as np


def number(name, value, allowed, is_allowed):
    """Return a real number, or raise ValueError.

    Args:
        name: name of the argument.
        value: what was given.
        allowed: what is allowed, in words: "above 0".
        is_allowed: function of the number.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not is_allowed(value):
        raise ValueError(f"{name}={value!r} must be {allowed}")
    return value


def positive(name, value):
    """Return a number above 0, or raise ValueError."""
    return number(name, value, "above 0", lambda x: x > 0)


def share(name, value):
    """Return a number from 0 to below 1 as a float, or raise ValueError."""
    return float(number(name, value, "from 0 to below 1", lambda x: 0 <= x < 1))


def is_integer(value):
    """Whether a value is an integer, of Python or of NumPy; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def integer(name, value, least):
    """Return a whole number of at least `least`, or raise ValueError."""
    if not is_integer(value) or value < least:
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}")
    return int(value)


def integers(name, values):
    """Return an int32 array; raise ValueError for numbers that a cast would change.

    Args:
        name: name of the argument.
        values: an array or lists, of integers, or of floats that are whole numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be whole numbers, got {array.dtype}")
    limits = np.iinfo(np.int32)
    fits = (array >= limits.min) & (array <= limits.max) & (array == np.floor(array))
    if not fits.all():
        raise ValueError(f"{name} must be whole numbers of 32 bits, got {array[~fits][0]}")
    return array.astype(np.int32)


def optional_integer(name, value, least):
    """Return None, or a whole number of at least `least`; raise ValueError for anything else."""
    if value is None:
        return None
    if not is_integer(value) or value < least:
        raise ValueError(f"{name}={value!r} must be None or an integer of at least {least}")
    return int(value)


def not_negative(name, values, axes):
    """Return a number, or nested lists, of finite numbers of at least 0, or raise ValueError.

    Args:
        name: name of the argument.
        values: an array, or lists; or a number.
        axes: how many axes are allowed, a tuple.
    """
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    fits = array.ndim in axes and array.size > 0 and array.dtype.kind in "iuf"
    if not fits or not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError(f"{name}={values!r} must be finite and at least 0")
    return array.astype(float).tolist()


def flag(name, value):
    """Return True or False; raise ValueError for anything else, as "no", which counts as true."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}={value!r} must be True or False")
    return bool(value)


def one_of(name, value, allowed):
    """Return a value that is among those allowed, or raise ValueError."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(allowed)}")
    return value


def function(name, value):
    """Return something that can be called, or raise ValueError."""
    if not callable(value):
        raise ValueError(f"{name}={value!r} must be a function")
    return value
