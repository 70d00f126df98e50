"""Transforms of the gradient, applied between the backward pass and the update rule.

A transform is the result of one of the functions below, or any Python function
`(gradient, variable) -> gradient`; `chain` combines several. The names are those of optax.

Gradients of zero, and a model that cannot move:

    >>> import keras, numpy as np
    >>> from fastkeras import optimizers
    >>> from fastkeras.optimizers import transforms as t
    >>> def moved_by(gradient, **settings):
    ...     variables = [keras.Variable(np.zeros(3, "float32"), name=name) for name in ("a", "b")]
    ...     optimizer = optimizers.SGD(1.0, **settings)
    ...     optimizer.build(variables)
    ...     optimizer.apply([np.array(gradient, "float32")] * 2, variables)
    ...     return [(0 - v.value.numpy()).tolist() for v in variables]
    >>> moved_by([4, -2, 2], gradient_transforms=t.zero())
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]

Clipping by the sum of magnitudes instead of the Euclidean norm:

    >>> moved_by([4, -2, 2], gradient_transforms=t.clip_by_l1_norm(4))
    [[2.0, -1.0, 1.0], [2.0, -1.0, 1.0]]

And a different clipping for each variable:

    >>> chains = [("a", t.clip_by_norm(2.5)), ("b", t.clip_by_value(1))]
    >>> moved_by([3, 0, -4], gradient_transforms=chains)
    [[1.5, 0.0, -2.0], [1.0, 0.0, -1.0]]
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any

NAMES = (
    "scale",
    "zero",
    "clip_by_value",
    "clip_by_norm",
    "clip_by_l1_norm",
    "clip_by_global_norm",
    "adaptive_clip",
    "centralize",
    "normalize",
    "add_decayed_weights",
    "add_noise",
    "sanitize",
)


class Transform(NamedTuple):
    """One transform, by name.

    Attributes:
        name: the name of the function that made it.
        operand: its number.
        of: which gradients a global norm spans: "group", "all", or, once the optimizer is built,
            the number of the group.
    """

    name: str
    operand: float = 0.0
    of: str | int = "group"


def chain(*transforms: Any) -> tuple[Any, ...]:
    """Apply several transforms in the order given.

    Args:
        *transforms: transforms, functions `(gradient, variable) -> gradient`, or chains.

    Returns:
        A tuple, the form in which an optimizer takes them.

    Raises:
        TypeError: one is neither a transform nor a function.
        ValueError: one has no name of a transform, or its operand is NaN.

    Example:
        >>> chain(centralize(), clip_by_norm(1.0))
        (Transform(name='centralize', operand=0.0, of='group'),
         Transform(name='clip_by_norm', operand=1.0, of='group'))
    """
    steps: list[Any] = []
    for given in transforms:
        if isinstance(given, (list, tuple)) and not isinstance(given, Transform):
            steps.extend(chain(*given))
        elif isinstance(given, Transform):
            steps.append(_checked(given))
        elif callable(given):
            steps.append(given)
        else:
            raise TypeError(
                "transforms must be those of fastkeras.optimizers.transforms or functions "
                f"(gradient, variable) -> gradient, got {given!r}"
            )
    return tuple(steps)


def scale(factor: float) -> Transform:
    """Return a transform that multiplies the gradient by `factor`."""
    return Transform("scale", _number("factor", factor))


def zero() -> Transform:
    """Return a transform to zeros, even from NaN; moments still decay, and so do weights."""
    return Transform("zero")


def clip_by_value(largest: float) -> Transform:
    """Return a transform that clips each element to ±`largest`."""
    return Transform("clip_by_value", _positive("largest", largest))


def clip_by_norm(largest: float) -> Transform:
    """Return a transform of a variable's gradient to a Euclidean norm of at most `largest`."""
    return Transform("clip_by_norm", _positive("largest", largest))


def clip_by_l1_norm(largest: float) -> Transform:
    """Return a transform of a variable's gradient to a sum of magnitudes of at most `largest`."""
    return Transform("clip_by_l1_norm", _positive("largest", largest))


def clip_by_global_norm(largest: float, of: str = "group") -> Transform:
    """Scale gradients down together, to a Euclidean norm of all of them of at most `largest`.

    Args:
        largest: the norm, above 0.
        of: "group" for the variables that one entry of `gradient_transforms` matches; "all" for
            those of every entry that has such a transform. Frozen variables are left out.

    Returns:
        The transform.

    Raises:
        ValueError: `largest` is not above 0, or `of` is something else.
    """
    if of not in ("group", "all"):
        raise ValueError(f'of must be "group" or "all", got {of!r}')
    return Transform("clip_by_global_norm", _positive("largest", largest), of)


def adaptive_clip(ratio: float) -> Transform:
    """Return a transform that clips the gradient of each unit to `ratio` times its weights' norm.

    The norm counts as 0.001 if it is below. A unit is an entry along the last axis; a vector is one
    unit. Brock et al. 2021,
    "High-Performance Large-Scale Image Recognition Without Normalization",
    https://arxiv.org/abs/2102.06171.
    """
    return Transform("adaptive_clip", _positive("ratio", ratio))


def centralize() -> Transform:
    """Return a transform that subtracts its mean from the gradient of each unit, but of no vector.

    Yong et al. 2020, "Gradient Centralization", https://arxiv.org/abs/2004.01461.
    """
    return Transform("centralize")


def normalize() -> Transform:
    """Return a transform that divides a gradient by its Euclidean norm; zeros stay zeros."""
    return Transform("normalize")


def add_decayed_weights(factor: float) -> Transform:
    """Return a transform that adds the variable times `factor`: L2, not decoupled weight decay."""
    return Transform("add_decayed_weights", _number("factor", factor))


def add_noise(stddev: float) -> Transform:
    """Return a transform that adds Gaussian noise of deviation `stddev`, drawn anew at each step.

    Neelakantan et al. 2015, "Adding Gradient Noise Improves Learning for Very Deep Networks",
    https://arxiv.org/abs/1511.06807.
    """
    return Transform("add_noise", _positive("stddev", stddev))


def sanitize() -> Transform:
    """Return a transform that skips the whole step at a NaN or an infinity.

    The steps that it skipped are counted in `optimizer.skipped_steps`.
    """
    return Transform("sanitize")


def _checked(step):
    if not isinstance(step.name, str) or step.name not in NAMES:
        raise ValueError(f"no transform is named {step.name!r}; these are: {', '.join(NAMES)}")
    _number(f"the operand of {step.name!r}", step.operand)
    return step


def _number(name, value):
    if not isinstance(value, Real) or value != value:
        raise ValueError(f"{name} must be a number, got {value!r}")
    return float(value)


def _positive(name, value):
    if _number(name, value) <= 0:
        raise ValueError(f"{name} must be above 0, got {value!r}")
    return float(value)
