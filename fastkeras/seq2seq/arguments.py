"""The door of the decoding functions: checks every argument, once, and makes a `Step` of them.

Values are checked for NumPy arrays only: a graph of tensors cannot raise, so there the engine has
to deal with them.
"""

from math import isfinite  # torch.compile traces it, and not that of NumPy
from typing import Any, NamedTuple

import numpy as np

from fastkeras._arrays import Spoken, array_functions, contiguous, dtype_of, family_of

FLOATS = ("float16", "bfloat16", "float32", "float64")
MOST = 2**31 - 1  # the largest int32


class Step(NamedTuple):
    """One step of a search, checked, as every engine takes it."""

    logits: Any  # (batch, beams, vocabulary), float32 or float64
    scores: Any  # (batch, beams), of the same dtype
    history: Any  # int32 (batch, beams, steps), or None where it is not needed
    allowed: Any  # bool (batch or 1, beams or 1, vocabulary), or None for all
    repetition_penalty: float
    no_repeat_ngram: int

    @property
    def family(self):
        """The family of the arrays (fastkeras/_arrays.py)."""
        return family_of(self.logits)


def step_of(logits, scores, history, allowed, repetition_penalty, no_repeat_ngram):
    """Check the arguments of a step and return the `Step`."""
    array = array_functions(logits)
    logits = _floats(array, "logits", logits)
    shape = tuple(logits.shape)
    if len(shape) != 3 or None in shape[1:] or min(shape[1:]) < 1:
        raise ValueError(
            "logits must have shape (batch, beams, vocabulary) with known beams >= 1 and "
            f"vocabulary >= 1, got {shape}"
        )
    batch, beams, vocabulary = shape
    if beams * vocabulary > MOST:
        raise ValueError(f"logits must have at most {MOST} tokens a sentence, got shape {shape}")
    dtype = "float64" if dtype_of(logits) == "float64" else "float32"
    logits = contiguous(array.cast(logits, dtype))
    scores = contiguous(array.cast(_floats(array, "scores", scores), dtype))
    _expect_shape("scores", scores, (batch, beams), "(batch, beams)")
    if allowed is not None:
        allowed = _allowed(array, allowed, (batch, beams, vocabulary))
    repetition_penalty = positive("repetition_penalty", repetition_penalty)
    no_repeat_ngram = integer("no_repeat_ngram", no_repeat_ngram, 0)
    if repetition_penalty == 1 and no_repeat_ngram == 0:
        history = None  # not needed
    elif history is None:
        raise ValueError(
            "history must be given, int32 (batch, beams, steps), for a repetition_penalty or a "
            "no_repeat_ngram to look at, got None"
        )
    else:
        history = _history(array, history, (batch, beams), vocabulary)
    return Step(logits, scores, history, allowed, repetition_penalty, no_repeat_ngram)


def integer(name, value, least, most=MOST):
    """Return the value, if it is an integer in least..most; else raise."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise ValueError(f"{name}={value!r} must be an integer in {least}..{most}")
    return int(value)


def number(name, value, is_in=lambda value: True, range_of=""):
    """Return the value, if it is a finite number with `is_in`, in words `range_of`; else raise."""
    is_one = isinstance(value, (int, float, np.integer, np.floating))
    if not is_one or isinstance(value, bool) or not isfinite(value) or not is_in(value):
        raise ValueError(f"{name}={value!r} must be a finite number{range_of}")
    return float(value)


def positive(name, value):
    """Return the value, if it is a finite number above 0; else raise."""
    return number(name, value, lambda value: value > 0, " above 0")


def _allowed(array, allowed, shape):
    allowed = array.convert_to_tensor(allowed)
    if dtype_of(allowed) != "bool":
        raise ValueError(f"allowed must be booleans, got {dtype_of(allowed)}")
    if len(allowed.shape) == 1:
        allowed = allowed[None]
    if len(allowed.shape) == 2:
        allowed = allowed[:, None]
    shared = (1 if size == 1 else n for size, n in zip(allowed.shape, shape[:2], strict=False))
    expected = (*shared, shape[2])
    meaning = "(vocabulary,), (batch, vocabulary) or (batch, beams, vocabulary)"
    _expect_shape("allowed", allowed, expected, meaning)
    return contiguous(allowed)


def _history(array, history, rows, vocabulary):
    history = array.convert_to_tensor(history)
    if not dtype_of(history).startswith(("int", "uint")):
        raise ValueError(f"history must be integers, got {dtype_of(history)}")
    steps = history.shape[2] if len(history.shape) == 3 else None
    _expect_shape("history", history, (*rows, steps), "(batch, beams, steps)")
    if family_of(history) == "numpy" and history.size and history.max() >= vocabulary:
        raise ValueError(
            f"history must be tokens in 0..{vocabulary - 1}, or negative where there is none, got "
            f"{history.max()}"
        )
    if family_of(history) == "numpy":
        history = np.maximum(history, -1)  # so that negative int64 numbers stay so in int32
    return contiguous(array.cast(history, "int32"))


def _floats(array, name, value):
    value = array.convert_to_tensor(value)
    if isinstance(array, Spoken) and value.dtype.kind in "iu":
        return array.cast(value, "float32")
    if dtype_of(value) not in FLOATS:
        raise ValueError(f"{name} must be one of {', '.join(FLOATS)}, got {dtype_of(value)}")
    return value


def _expect_shape(name, array, expected, meaning):
    actual = tuple(array.shape)
    fits = len(actual) == len(expected) and all(
        got is None or want is None or got == want
        for got, want in zip(actual, expected, strict=True)
    )
    if not fits:
        raise ValueError(f"{name} must have shape {meaning} = {tuple(expected)}, got {actual}")
