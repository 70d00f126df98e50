"""Gradients for `train_with`: of methods for differential equations, games and flat minima."""

from dataclasses import dataclass

from keras import ops

TINY = 1e-12


@dataclass(frozen=True)
class Heun:
    """The mean of the gradients here and after a plain step: with SGD, Heun's method.

    Two evaluations. It follows the gradient flow more closely, which trains deeper into the
    training loss and generalises no better: a tool to study, not a faster optimizer.

    Source: Su Jianlin, 2018, https://kexue.fm/archives/5879.
    """

    def __call__(self, objective, values):
        """The gradients."""
        first = objective.gradients(values)
        second = objective.gradients(_after(values, objective.rates, first))
        return [(a + b) / 2 for a, b in zip(first, second, strict=True)]


@dataclass(frozen=True)
class RungeKutta4:
    """With SGD, the classical Runge-Kutta method of fourth order on the gradient flow.

    Four evaluations. See `Heun`.
    """

    def __call__(self, objective, values):
        """The gradients."""
        halves = [rate / 2 for rate in objective.rates]
        first = objective.gradients(values)
        second = objective.gradients(_after(values, halves, first))
        third = objective.gradients(_after(values, halves, second))
        fourth = objective.gradients(_after(values, objective.rates, third))
        all_ = zip(first, second, third, fourth, strict=True)
        return [(a + 2 * b + 2 * c + d) / 6 for a, b, c, d in all_]


@dataclass(frozen=True)
class Extragradient:
    """The gradient after a plain step, for games: it converges where descent goes round in circles.

    Two evaluations.

    Source: Korpelevich, 1976; Gidel et al., 2019, "A variational inequality perspective on
    generative adversarial networks".
    """

    def __call__(self, objective, values):
        """The gradients."""
        first = objective.gradients(values)
        return objective.gradients(_after(values, objective.rates, first))


@dataclass(frozen=True)
class SAM:
    """Sharpness-aware minimisation: the gradient at the worst point within `rho`.

    Two evaluations. The moving statistics are those of the first, as the authors advise.

    Args:
        rho: radius, above 0.

    Source: Foret et al., 2021, "Sharpness-aware minimization for efficiently improving
    generalization".
    """

    rho: float = 0.05

    def __post_init__(self):
        positive("rho", self.rho)

    def __call__(self, objective, values):
        """The gradients."""
        first = objective.gradients(values)
        return objective.gradients(moved(values, first, self.rho / norm(first)))


@dataclass(frozen=True)
class ASAM:
    """SAM with a radius in proportion to each weight, so that rescaled layers change nothing.

    Two evaluations. Variables of one axis (biases, gains) are not scaled.

    Args:
        rho: radius, above 0; about ten times that of SAM.
        eta: added to the magnitudes of the weights.

    Source: Kwon et al., 2021, "ASAM: adaptive sharpness-aware minimization for scale-invariant
    learning of deep neural networks".
    """

    rho: float = 0.5
    eta: float = 0.01

    def __post_init__(self):
        positive("rho", self.rho)

    def __call__(self, objective, values):
        """The gradients."""
        first = objective.gradients(values)
        scales = [ops.abs(w) + self.eta if len(w.shape) > 1 else 1.0 for w in values]
        scaled = [t * g for t, g in zip(scales, first, strict=True)]
        direction = [t * g for t, g in zip(scales, scaled, strict=True)]
        return objective.gradients(moved(values, direction, self.rho / norm(scaled)))


def norm(tensors):
    """Euclidean length of all tensors together; never 0."""
    return ops.sqrt(ops.maximum(squared_norm(tensors), TINY**2))


def squared_norm(tensors):
    """Sum of all squares."""
    return sum(ops.sum(ops.square(ops.cast(tensor, "float32"))) for tensor in tensors)


def moved(values, directions, distance):
    """Values moved along directions; None is no direction."""
    return [
        value if direction is None else value + ops.cast(distance, value.dtype) * direction
        for value, direction in zip(values, directions, strict=True)
    ]


def positive(name, number):
    """Raise if a setting is not above 0."""
    if not number > 0:
        raise ValueError(f"{name}={number!r} must be above 0")


def _after(values, rates, gradients):
    return [
        value - ops.cast(rate, value.dtype) * gradient
        for value, rate, gradient in zip(values, rates, gradients, strict=True)
    ]
