"""APOLLO: matrices move by their gradient, in sizes that Adam has in a random projection of it."""

from types import MappingProxyType as Table
from typing import Any

import keras
import numpy as np
from keras import ops

from fastkeras.optimizers import rounding
from fastkeras.optimizers.fused.classes.matrices import ByMatrices
from fastkeras.optimizers.fused.classes.newer import OF_KERAS, described
from fastkeras.optimizers.hyperparameters import checked_integer, checked_number

GROWTH = 1.01  # by which the length of a step may grow from one to the next
TINY = 1e-8  # is added to lengths that are divided by


class APOLLO(ByMatrices):
    """AdamW with the memory of SGD: the gradient itself, scaled as Adam scales a projection of it.

    Zhu et al. 2024, "APOLLO: SGD-like Memory, AdamW-level Performance",
    https://arxiv.org/abs/2412.05270. The moments are those of a few random projections of the
    gradient along the shorter axis, so that a matrix of r rows and c ≥ r columns takes 2·rank·c
    numbers of state. All that is no matrix goes by AdamW, and so does one with at most `rank`
    rows or columns. `APOLLO(rank=1, scale=128, by="matrix")` is APOLLO-Mini. The random signs
    follow from the number of the update and the place of the variable, and are not stored.

    Args:
        learning_rate: a number, a schedule, or a function without arguments.
        beta_1, beta_2: of the moments of Adam.
        epsilon: is added to the root of the second moment.
        rank: how many projections.
        scale: steps of matrices are this long, squared: they are multiplied by its root.
        by: "channel" for a scale for each place along the longer axis, or "matrix" for one.
        projection_period: after so many updates the projections are others.
        exclude_layers: regular expressions that are searched in the paths of matrices; those found
            go by AdamW.
        exclude_embeddings: whether matrices with "embedding" in their path go by AdamW.
    """

    _ARGUMENTS = Table(
        {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-6}
        | OF_KERAS
        | {"weight_decay": 0.004, "rank": 256, "scale": 1.0, "by": "channel"}
        | {"projection_period": 200, "exclude_layers": None, "exclude_embeddings": True}
    )
    _HYPERPARAMETERS = ("beta_1", "beta_2", "epsilon")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("rank", "projection_period"):
            setattr(self, name, checked_integer(name, getattr(self, name), 1))
        checked_number("scale", self.scale, "a number above 0", lambda x: 0 < x < float("inf"))
        if self.by not in ("channel", "matrix"):
            raise ValueError(f'by must be "channel" or "matrix", got {self.by!r}')

    def _goes_by_adam(self, variable):
        return super()._goes_by_adam(variable) or min(variable.shape) <= self.rank

    def _make_slots(self, variables, are_matrices):
        self._momentums, self._velocities = [], []
        self._lengths = {}  # of the last step of a matrix, by position
        for position, variable in enumerate(variables):
            made = self._made_slot
            if are_matrices[position]:
                shape = list(variable.shape)
                shape[_shorter(shape)] = self.rank
                made = self._maker(tuple(shape))
                self._lengths[position] = self._made_state(variable, (), "length")
            self._momentums.append(made(variable, "momentum"))
            self._velocities.append(made(variable, "velocity"))

    def _maker(self, shape):
        return lambda variable, name: self._made_state(variable, shape, name)

    def _is_matrix(self, position):
        return position in self._lengths

    def _slots(self, position):
        return self._momentums[position], self._velocities[position]

    def _slots_and_scales(self, position):
        more = [self._lengths[position]] if self._is_matrix(position) else []
        return [*super()._slots_and_scales(position), *more]

    def _state_of_matrix(self, position):
        return self._slots_and_scales(position)

    def _direction(self, position, gradient, held, number, frozen):
        momentum, velocity, length = held
        axis = _shorter(gradient.shape)
        epoch = ops.cast(ops.floor((number - 1) / self.projection_period), "int32")
        signs = signs_of(ops, epoch, position, (self.rank, gradient.shape[axis]))
        signs = ops.cast(signs, gradient.dtype) / self.rank**0.5
        if axis == 0:
            small = ops.matmul(signs, gradient)
        else:
            small = ops.matmul(gradient, ops.transpose(signs))
        momentum = momentum + (small - momentum) * (1 - self.beta_1)
        velocity = velocity + (small * small - velocity) * (1 - self.beta_2)
        adapted = momentum / (ops.sqrt(velocity) + self.epsilon)
        over = axis if self.by == "channel" else None
        step = gradient * (_length(adapted, over) / (_length(small, over) + TINY))
        now = _length(step, None)
        allowed = ops.maximum(now / (length + TINY), GROWTH) / GROWTH
        limiter = ops.where(ops.equal(length, 0), ops.ones_like(now), allowed)
        limiter = ops.reshape(limiter, ())
        correction = ops.cast(self._correction(number) * self.scale**0.5, step.dtype)
        length = ops.reshape(now, ()) / limiter
        return step / limiter * correction, [momentum, velocity, length]


def _shorter(shape):
    return 0 if shape[0] <= shape[1] else 1


def _length(x, axis):
    return ops.sqrt(ops.sum(x * x, axis=axis, keepdims=True))


def signs_of(xp, epoch, position, shape):
    """Return random signs, int32, for an int32 number of an epoch and the place of a variable."""
    seed = rounding.seeds(xp, epoch, xp.convert_to_tensor(np.array([position], "int32")))
    elements = xp.reshape(xp.arange(shape[0] * shape[1], dtype="int32"), shape)
    return xp.where(rounding.dither_bits(xp, seed, elements) < 2**15, 1, -1)


described(APOLLO)
keras.saving.register_keras_serializable("fastkeras")(APOLLO)
