"""The checks of arguments that the training tools share."""

import numbers


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


def is_integer(value):
    """Whether a value is an integer, of Python or of NumPy; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def integer(name, value, least):
    """Return a whole number of at least `least`, or raise ValueError."""
    if not is_integer(value) or value < least:
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}")
    return int(value)


def function(name, value):
    """Return something that can be called, or raise ValueError."""
    if not callable(value):
        raise ValueError(f"{name}={value!r} must be a function")
    return value
