"""Adam-mini: one second moment for each block of a variable, which halves the state of Adam."""

import re
from collections.abc import Sequence
from numbers import Integral
from types import MappingProxyType as Table
from typing import Any

import keras

from fastkeras.optimizers.fused import matching
from fastkeras.optimizers.fused.classes.newer import OF_KERAS, Tabled, described
from fastkeras.optimizers.fused.matching import path_of
from fastkeras.optimizers.fused.optimizer import Fused

DEFAULT_BLOCKS = (  # the first pattern that is found in a path counts, if it has such axes
    ("embeddings$", (0,)),  # a token
    ("(query|key)/kernel$", (1,)),  # a head; its kernels are (inputs, heads, units)
    ("value/kernel$", (1, 2)),  # a unit of a head
    ("kernel$", (-1,)),  # a unit
    ("", ()),
)


class AdamMini(Fused, Tabled):
    """AdamW with one second moment for each block of a variable, in place of one for each number.

    Zhang et al. 2024, "Adam-mini: Use Fewer Learning Rates To Gain More",
    https://arxiv.org/abs/2406.16793. Blocks are those of the paper: each token of an embedding,
    each head of queries and keys, each unit of all other kernels, and all else as a whole. So its
    state is half that of AdamW, and an eighth with `moment_bits=8`, since few second moments are
    left. There is no kernel for it: the engine is `keras`.

    Args:
        learning_rate: a number, a schedule, or a function without arguments.
        beta_1, beta_2: of the moments of Adam.
        epsilon: is added to the root of the second moment.
        blocks: pairs `(pattern, axes)`, a regular expression that is searched in the path of a
            variable, and the axes along which each place is a block of its own: `("query", 1)`,
            `("kernel$", (0, 1))`, or `()` for one block. They go before the above; the first one
            that is found counts.
    """

    _ARGUMENTS = Table(
        {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}
        | OF_KERAS
        | {"weight_decay": 0.004, "blocks": None}
    )
    _HYPERPARAMETERS = ("beta_1", "beta_2", "epsilon")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        given = vars(self)["blocks"] or ()
        self.blocks = [_checked(pair) for pair in matching.listed("blocks", given)]

    def _rule(self):
        return "adam_mini"

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        variables = list(variables)
        super().build(variables)
        self._momentums, self._velocities = [], []
        for variable in variables:
            is_left = getattr(variable, "overwrite_with_gradient", False)
            self._momentums.append(self._made_slot(variable, "momentum"))
            self._velocities.append(None if is_left else self._made_velocity(variable))

    def _made_velocity(self, variable):
        kept = blocks_of(path_of(variable), len(variable.shape), self.blocks)
        shape = [count if axis in kept else 1 for axis, count in enumerate(variable.shape)]
        dtype = "float64" if str(variable.dtype) == "float64" else "float32"
        return self.add_variable(tuple(shape), dtype=dtype, name="velocity")

    def _slots(self, position):
        return self._momentums[position], self._velocities[position]


def _checked(pair):
    try:
        pattern, axes = pair
        re.compile(pattern)
        axes = (axes,) if isinstance(axes, Integral) else tuple(axes)
        if not all(isinstance(axis, Integral) and not isinstance(axis, bool) for axis in axes):
            raise TypeError("axes are integers")
    except (TypeError, ValueError, re.error) as error:
        raise ValueError(
            'blocks must be pairs of a regular expression and axes, as ("query", (1,)), got '
            f"{pair!r}: {error}"
        ) from None
    return pattern, tuple(map(int, axes))


def blocks_of(path, rank, blocks):
    """Return the axes of a variable along which each place is a block of its own."""
    for pattern, axes in blocks:
        if re.search(pattern, path):
            if not all(-rank <= axis < rank for axis in axes):
                raise ValueError(f"blocks: {path} has {rank} axes, but {pattern!r} names {axes}")
            return {axis % rank for axis in axes}
    for pattern, axes in DEFAULT_BLOCKS:
        fits = rank > 1 and all(-rank <= axis < rank for axis in axes)
        if re.search(pattern, path) and (fits or not axes):
            return {axis % rank for axis in axes}
    return set()


described(AdamMini)
keras.saving.register_keras_serializable("fastkeras")(AdamMini)
