"""Rules for `train_with`: methods for differential equations, games and flat minima."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.training.arguments import number, positive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self

    from fastkeras.training.gradients.objective import Objective
    from fastkeras.typing import Tensor

TINY = 1e-12


class Rule:
    """What makes a rule a part of a saved model: its fields are its configuration."""

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """A rule of this configuration."""
        of_names = ((n, tuple(v) if isinstance(v, list) else v) for n, v in config.items())
        return cls(**dict(of_names))  # JSON has lists for tuples


@keras.saving.register_keras_serializable("fastkeras")
@dataclass(frozen=True)
class Heun(Rule):
    """The mean of the gradients here and after the optimizer's step: with SGD, Heun's method.

    Two evaluations. It follows the gradient flow more closely. This lowers the training loss
    further but does not generalise better: a tool for studies, not a faster optimizer.

    Example:
        See `train_with`.

    Source: Su Jianlin, 2018, https://kexue.fm/archives/5879.
    """

    def __call__(self, objective: Objective, values: Sequence[Tensor]) -> list[Tensor]:
        """The gradients."""
        first = objective.gradients(values)
        second = objective.gradients(objective.step(values, first))
        return [(a + b) / 2 for a, b in zip(first, second, strict=True)]


@keras.saving.register_keras_serializable("fastkeras")
@dataclass(frozen=True)
class RungeKutta4(Rule):
    """With SGD, the classical Runge-Kutta method of fourth order on the gradient flow.

    Four evaluations. See `Heun`.

    Example:
        See `train_with`.
    """

    def __call__(self, objective: Objective, values: Sequence[Tensor]) -> list[Tensor]:
        """The gradients."""
        first = objective.gradients(values)
        second = objective.gradients(_half(values, objective.step(values, first)))
        third = objective.gradients(_half(values, objective.step(values, second)))
        fourth = objective.gradients(objective.step(values, third))
        all_ = zip(first, second, third, fourth, strict=True)
        return [(a + 2 * b + 2 * c + d) / 6 for a, b, c, d in all_]


@keras.saving.register_keras_serializable("fastkeras")
@dataclass(frozen=True)
class Extragradient(Rule):
    """The gradient after the optimizer's step, for games in which descent runs in circles.

    The step to the point of that gradient is the optimizer's own, moments included: with Adam, a
    step of Adam. Two evaluations.

    Example:
        See `train_with`.

    Source: Korpelevich, 1976; Gidel et al., 2019, "A variational inequality perspective on
    generative adversarial networks".
    """

    def __call__(self, objective: Objective, values: Sequence[Tensor]) -> list[Tensor]:
        """The gradients."""
        first = objective.gradients(values)
        return objective.gradients(objective.step(values, first))


@keras.saving.register_keras_serializable("fastkeras")
@dataclass(frozen=True)
class SAM(Rule):
    """Sharpness-aware minimisation: the gradient at the worst point within `rho`.

    Two evaluations. Moving statistics come from the first, as the authors advise.

    Args:
        rho: radius, above 0.

    Example:
        See `train_with`.

    Source: Foret et al., 2021, "Sharpness-aware minimization for efficiently improving
    generalization".
    """

    rho: float = 0.05

    def __post_init__(self) -> None:
        positive("rho", self.rho)

    def __call__(self, objective: Objective, values: Sequence[Tensor]) -> list[Tensor]:
        """The gradients."""
        first = objective.gradients(values)
        return objective.gradients(moved(values, first, self.rho / norm(first)))


@keras.saving.register_keras_serializable("fastkeras")
@dataclass(frozen=True)
class ASAM(Rule):
    """SAM with a radius in proportion to each weight, so that rescaled layers change nothing.

    Two evaluations. Variables of one axis (biases, gains) are not scaled.

    Args:
        rho: radius, above 0; about ten times that of SAM.
        eta: added to the magnitudes of the weights.

    Example:
        See `train_with`.

    Source: Kwon et al., 2021, "ASAM: adaptive sharpness-aware minimization for scale-invariant
    learning of deep neural networks".
    """

    rho: float = 0.5
    eta: float = 0.01

    def __post_init__(self) -> None:
        positive("rho", self.rho)
        number("eta", self.eta, "at least 0", lambda eta: eta >= 0)

    def __call__(self, objective: Objective, values: Sequence[Tensor]) -> list[Tensor]:
        """The gradients."""
        first = objective.gradients(values)
        scales = [ops.abs(w) + self.eta if len(w.shape) > 1 else 1.0 for w in values]
        scaled = [t * g for t, g in zip(scales, first, strict=True)]
        direction = [t * g for t, g in zip(scales, scaled, strict=True)]
        return objective.gradients(moved(values, direction, self.rho / norm(scaled)))


def norm(tensors):
    """Euclidean length of all tensors together; never 0."""
    squares = sum(ops.sum(ops.square(ops.cast(tensor, "float32"))) for tensor in tensors)
    return ops.sqrt(ops.maximum(squares, TINY**2))


def moved(values, directions, distance):
    """Values moved along directions; with None a value stays."""
    return [
        value if direction is None else value + ops.cast(distance, value.dtype) * direction
        for value, direction in zip(values, directions, strict=True)
    ]


def _half(values, others):
    return [(value + other) / 2 for value, other in zip(values, others, strict=True)]
