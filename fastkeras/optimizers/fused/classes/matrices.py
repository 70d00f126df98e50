"""Optimizers of two rules: matrices go in directions of their own, all other variables by Adam."""

import re
from collections.abc import Sequence
from typing import Any

from keras import ops

from fastkeras.optimizers import chains as of_transforms
from fastkeras.optimizers import rounding
from fastkeras.optimizers.fused import sparse
from fastkeras.optimizers.fused.classes.newer import Tabled
from fastkeras.optimizers.fused.matching import path_of
from fastkeras.optimizers.fused.optimizer import Fused
from fastkeras.optimizers.fused.scalars import wide
from fastkeras.optimizers.hyperparameters import checked_flag
from fastkeras.optimizers.rules import RULES
from fastkeras.optimizers.transforms import sanitize


class ByMatrices(Fused, Tabled):
    """The base class: a subclass computes the direction of a matrix (`_direction`) in the graph.

    One kernel call then takes decay, rates, remainders and rounding of all matrices, by the rule
    "sgd", and one those of all other variables, by "adam", whose moments may be of 8 and 16 bits.
    A subclass also has the arguments `exclude_layers`, a list of regular expressions, and
    `exclude_embeddings`.
    """

    exclude_layers: Any
    exclude_embeddings: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        given: list[str] | None = vars(self)["exclude_layers"]
        if isinstance(given, str) or not hasattr(given or [], "__iter__"):  # not letter by letter
            raise ValueError(
                f"exclude_layers must be a list of regular expressions, such as [{str(given)!r}], "
                f"got {given!r}"
            )
        self.exclude_layers = list(given or [])
        checked_flag("exclude_embeddings", self.exclude_embeddings)
        for pattern in self.exclude_layers:
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise ValueError(
                    f"exclude_layers: {pattern!r} is no regular expression: {error}"
                ) from None

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        variables = list(variables)
        super().build(variables)
        self._make_slots(variables, [not self._goes_by_adam(variable) for variable in variables])

    def _goes_by_adam(self, variable):
        path = path_of(variable)
        return (
            len(variable.shape) != 2
            or 0 in variable.shape
            or (self.exclude_embeddings and "embedding" in path.lower())
            or any(re.search(pattern, path) for pattern in self.exclude_layers)
        )

    def _way_of(self, position):
        return type(self).__name__ if self._is_matrix(position) else "AdamW"

    def _bits_of(self, variable):
        return super()._bits_of(variable) if self._goes_by_adam(variable) else 32

    def _resolve_flags(self, variables):
        lazy, adapted = super()._resolve_flags(variables)
        if any(lazy + adapted):
            raise ValueError(
                f"layer_adaptation and lazy are not for {type(self).__name__}, which goes by whole "
                "matrices already"
            )
        return lazy, adapted

    def _correction(self, number):
        """That of Adam for moments that began with zeros, after so many updates."""
        given = self._hyperparameters(number, number)
        return RULES["adam"].coefficients(ops, given, 1.0, 1.0, number)[0]

    def _made_state(self, variable, shape, name):
        dtype = "float64" if str(variable.dtype) == "float64" else "float32"
        return self.add_variable(shape, dtype=dtype, name=name)

    def _rule(self):
        return "adam"

    def _ratio_of_adam(self):
        return 1

    def _groups(self, positions):
        is_matrix = [self._is_matrix(position) for position in positions]
        matrices = [i for i, is_one in enumerate(is_matrix) if is_one]
        others = [i for i, is_one in enumerate(is_matrix) if not is_one]
        groups = [("sgd", 1, matrices), ("adam", self._ratio_of_adam(), others)]
        return [group for group in groups if group[2]]

    def _directions(self, gradients, variables, positions, chains, frozen):
        finite = True
        if any(chains):  # norms may span both kinds of variables
            gradients, finite = self._transformed(gradients, variables, positions, chains, frozen)
            chains = [()] * len(chains) if finite is True else [(sanitize(),)] * len(chains)
        directions = list(gradients)
        numbers = self._own_numbers(wide(self.iterations) + 1, positions)
        for i, position in enumerate(positions):
            if not self._is_matrix(position):
                continue
            held = self._state_of_matrix(position)
            old = [ops.convert_to_tensor(variable) for variable in held]
            gradient = ops.cast(sparse.dense(gradients[i]), old[0].dtype)
            directions[i], new = self._direction(position, gradient, old, numbers[i], frozen[i])
            stays = frozen[i] if finite is True else ops.logical_or(frozen[i], ~finite)
            for variable, before, after in zip(held, old, new, strict=True):
                self.assign(variable, ops.where(stays, before, after))
        return directions, chains

    def _transformed(self, gradients, variables, positions, chains, frozen):
        remainders = [self._settings.remainders[position] for position in positions]
        values = [
            rounding.widened(
                ops,
                ops.convert_to_tensor(variable),
                None if remainder is None else ops.convert_to_tensor(remainder),
            )
            for variable, remainder in zip(variables, remainders, strict=True)
        ]
        gradients = [
            ops.cast(sparse.dense(gradient), value.dtype)
            for gradient, value in zip(gradients, values, strict=True)
        ]
        gradients, finite = of_transforms.apply(
            ops, gradients, values, chains, variables, self._noise, frozen
        )
        if finite is not True:  # the kernels see it, and skip the step
            nan = float("nan")
            gradients = [ops.where(finite, g, ops.full_like(g, nan)) for g in gradients]
        return gradients, finite
