"""What a step may have beside parameters, gradients and slots."""

from typing import NamedTuple

import numpy as np


class Extras(NamedTuple):
    """One entry of each for each variable, but `seeds`, which may be None.

    Attributes:
        rows: None if the gradient has all rows of the parameter; or int64, the numbers of those it
            has, each once, and the others stay as they are. For the engine `keras`, whose arrays
            cannot change their shapes, a mask of the rows of a gradient that has all.
        remainders: None, or float32, what a half parameter does not hold of its value.
        adapted: whether a step is made as long as its parameter, times its rate.
        rates: float64, the learning rates, which only that needs: the coefficients have them too.
        seeds: int32, to round bfloat16 at random.
    """

    rows: list
    remainders: list
    adapted: list
    rates: np.ndarray
    seeds: np.ndarray | None


def no_extras(count):
    """Return those of a plain step."""
    return Extras([None] * count, [None] * count, [False] * count, np.zeros(count), None)
