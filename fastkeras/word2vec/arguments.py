"""Checks of arguments, for all of word2vec, with one message for each kind of mistake."""

import math
import numbers
import operator

import numpy as np

LARGEST = 2**31 - 1  # what a kernel's int holds


def integer(name, value, lowest=0, highest=LARGEST):
    """Return an int; TypeError if the value is not one, ValueError if it is out of range."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}={value!r} must be an int")
    value = operator.index(value)
    if value < lowest:
        raise ValueError(f"{name}={value} must be at least {lowest}")
    if highest is not None and value > highest:
        raise ValueError(f"{name}={value} must be at most {highest}")
    return value


def number(name, value, lowest=-math.inf):
    """Return a finite float."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.number)):
        raise TypeError(f"{name}={value!r} must be a number")
    if not (math.isfinite(value) and value >= lowest):
        at_least = "" if lowest == -math.inf else f", at least {lowest}"
        raise ValueError(f"{name}={value} must be a finite number{at_least}")
    return float(value)


def strings(name, values):
    """Return a list of strings."""
    values = list(values)
    other = next((value for value in values if not isinstance(value, str)), None)
    if other is not None or None in values:
        raise ValueError(f"{name} has {other!r}, which is no string")
    return values


def flag(name, value):
    """Return a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}={value!r} must be True or False")
    return bool(value)
