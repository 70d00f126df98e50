"""Checks of arguments, for all of word2vec, with one message for each kind of mistake."""

import math
import numbers
import operator
import os
from collections.abc import Iterable

import numpy as np

LARGEST = 2**31 - 1  # what a kernel's int holds


def integer(name, value, lowest=0, highest=LARGEST):
    """Return an int; TypeError if the value is not one, ValueError if it is out of range."""
    try:
        value = operator.index(None if isinstance(value, (bool, np.bool_)) else value)
    except TypeError:
        raise TypeError(f"{name}={shown(value)} must be an int") from None
    if value < lowest:
        raise ValueError(f"{name}={value} must be at least {lowest}")
    if highest is not None and value > highest:
        raise ValueError(f"{name}={value} must be at most {highest}")
    return value


def number(name, value, lowest=-math.inf):
    """Return a finite float."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.number)):
        raise TypeError(f"{name}={shown(value)} must be a number")
    if not (math.isfinite(value) and value >= lowest):
        at_least = "" if lowest == -math.inf else f", at least {lowest}"
        raise ValueError(f"{name}={value} must be a finite number{at_least}")
    return float(value)


def string(name, value):
    """Return a string."""
    if not isinstance(value, str):
        raise TypeError(f"{name}={shown(value)} must be a string")
    return value


def strings(name, values):
    """Return a list of strings."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name}={shown(values)} must be a list of strings")
    values = list(values)
    if not all(issubclass(kind, str) for kind in set(map(type, values))):
        other = next(value for value in values if not isinstance(value, str))
        raise ValueError(f"{name} has {shown(other)}, which is no string")
    return values


def choice(name, value, allowed):
    """Return one of some strings, or None if that is one of them."""
    if not any(value is one or (isinstance(value, str) and value == one) for one in allowed):
        names = ", ".join(map(repr, allowed))
        raise ValueError(f"{name}={shown(value)} must be one of {names}")
    return value


def flag(name, value):
    """Return a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}={shown(value)} must be True or False")
    return bool(value)


def floats(name, values, dtype=np.float64):
    """Return a float array, or with `dtype=None` any; ValueError if something is no number."""
    try:
        given = np.asarray(values)
        if given.dtype.kind in "OcSUMm":
            raise TypeError(f"it has {given.dtype}")
        return np.asarray(given, dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={shown(values)} must be an array of numbers: {error}") from None


def whole_numbers(name, values):
    """Return an int64 array; ValueError if something is no whole number from 0 to 2⁶³ − 1."""
    try:
        given = np.asarray(values)
    except (TypeError, ValueError):  # rows of different lengths
        given = np.empty(0, object)
    with np.errstate(invalid="ignore"):  # of inf
        is_whole = given.dtype.kind in "iu" or (given.dtype.kind == "f" and not (given % 1).any())
    if not is_whole or not ((given >= 0) & (given < 2**63)).all():
        raise ValueError(f"{name}={shown(values)} must be integers from 0 to 2⁶³ − 1")
    return np.asarray(given, np.int64)


def file_path(name, value):
    """Return a path as it is. (`open` would take an int for a file that is open already.)"""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}={shown(value)} must be a path")
    return value


def instance(name, value, kind):
    """Return a value of a class of ours."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}={shown(value)} must be a fastkeras.word2vec.{kind.__name__}")
    return value


def shown(value):
    """Return a value as it stands in a message: in one line that is not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
