"""Muon: matrices move by their momentum made orthogonal, all other variables by AdamW."""

import math
from types import MappingProxyType as Table
from typing import Any

import keras
from keras import ops

from fastkeras.optimizers.fused import sparse
from fastkeras.optimizers.fused.classes.matrices import ByMatrices
from fastkeras.optimizers.fused.classes.newer import OF_KERAS, described
from fastkeras.optimizers.hyperparameters import (
    check_hyperparameter,
    checked_flag,
    checked_integer,
    checked_number,
)

_NUMBERS = (  # arguments, what they may be, in words and as a function
    ("momentum", "a number from 0 to 1", lambda x: 0 <= x <= 1),
    ("adam_lr_ratio", "a finite number above 0", lambda x: 0 < x < math.inf),
    *((name, "a finite number", math.isfinite) for name in ("muon_a", "muon_b", "muon_c")),
)


class Muon(ByMatrices):
    """`keras.optimizers.Muon`: matrices move by their momentum with all singular values near 1.

    Arguments, defaults, formulas and variables are those of Keras 3.15, so that saved states go
    both ways. One kernel call updates all matrices and another one all other variables, by AdamW;
    the products of matrices are those of the framework. Jordan et al. 2024, "Muon: An optimizer for
    hidden layers in neural networks", https://kellerjordan.github.io/posts/muon/; scaled as in Liu
    et al. 2025, "Muon is Scalable for LLM Training", https://arxiv.org/abs/2502.16982.

    Args:
        learning_rate: a number, a schedule, or a function without arguments.
        adam_beta_1, adam_beta_2, epsilon: of AdamW, which takes what is no matrix or is excluded.
        adam_weight_decay: the decay of those variables; `weight_decay` is that of matrices.
        exclude_layers: regular expressions that are searched in the paths of matrices; those found
            go by AdamW. Name the last layer, which makes the logits.
        exclude_embeddings: whether matrices with "embedding" in their path go by AdamW.
        muon_a, muon_b, muon_c: of the polynomial a·x + b·x³ + c·x⁵ of the singular values.
        adam_lr_ratio: the learning rate of AdamW is this times that of matrices; above 0.
        momentum: of matrices, below 1.
        ns_steps: how often the polynomial is applied, at least 1.
        nesterov: whether the gradient is added once more to the momentum.
        rms_rate: the size of a step for a learning rate of 1, as a root mean square; None for
            singular values of 1, whatever the shape.
        ns_dtype: the type of the products of matrices: "float32", as in Keras, or "bfloat16", as in
            the authors' implementation, which is faster on processors that multiply it. Momentum
            and variables are not rounded.
    """

    _ARGUMENTS = Table(
        {"learning_rate": 0.001, "adam_beta_1": 0.9, "adam_beta_2": 0.999}
        | {"adam_weight_decay": 0.004, "epsilon": 1e-7}
        | OF_KERAS
        | {"weight_decay": 0.004, "exclude_layers": None, "exclude_embeddings": True}
        | {"muon_a": 3.4445, "muon_b": -4.7750, "muon_c": 2.0315, "adam_lr_ratio": 1}
        | {"momentum": 0.95, "ns_steps": 5, "nesterov": True, "rms_rate": 0.2}
        | {"ns_dtype": "float32"}
    )

    ns_steps: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_hyperparameter("beta_1", self.adam_beta_1, "adam_beta_1")
        check_hyperparameter("beta_2", self.adam_beta_2, "adam_beta_2")
        check_hyperparameter("epsilon", self.epsilon)
        for name, allowed, is_allowed in _NUMBERS:
            setattr(self, name, checked_number(name, getattr(self, name), allowed, is_allowed))
        for name in ("rms_rate", "adam_weight_decay"):
            if getattr(self, name) is not None:
                number = checked_number(name, getattr(self, name), "None or a finite number")
                setattr(self, name, number)
        self.ns_steps = checked_integer("ns_steps", self.ns_steps, 1)
        checked_flag("nesterov", self.nesterov)
        if self.ns_dtype not in ("float32", "bfloat16"):
            raise ValueError(f'ns_dtype must be "float32" or "bfloat16", got {self.ns_dtype!r}')

    def _make_slots(self, variables, are_matrices):
        self.momentums, self.adam_velocities = [], []
        for variable, is_matrix in zip(variables, are_matrices, strict=True):
            self.momentums.append(self._made_slot(variable, "momentum"))
            self.adam_velocities.append(
                None if is_matrix else self._made_slot(variable, "velocity")
            )

    def _is_matrix(self, position):
        return self.adam_velocities[position] is None

    def _slots(self, position):
        slots = (self.momentums[position], self.adam_velocities[position])
        return slots[:1] if slots[1] is None else slots

    def _state_of_matrix(self, position):
        return self._slots(position)

    def _ratio_of_adam(self):
        return self.adam_lr_ratio

    def _hyperparameters(self, number, numbers):
        of_adam = {"beta_1": self.adam_beta_1, "beta_2": self.adam_beta_2}
        return of_adam | {"epsilon": self.epsilon}

    def _decay_of(self, position, variable):
        override = self._settings.decays[position]
        decay = self.weight_decay if self._is_matrix(position) else self.adam_weight_decay
        decay = decay if override is None else override
        if override is None and not self._use_weight_decay(variable):
            return 0.0
        return decay or 0.0

    def _direction(self, position, gradient, held, number, frozen):
        momentum = held[0] * self.momentum + gradient
        ahead = gradient + momentum * self.momentum if self.nesterov else momentum
        return self._orthogonal_unless(frozen, ahead), [momentum]

    def _orthogonal_unless(self, frozen, matrix):
        rows, columns = matrix.shape
        scale = 1.0
        if self.rms_rate is not None:
            scale = math.sqrt(max(rows, columns)) * self.rms_rate

        def direction():
            polynomial = self.muon_a, self.muon_b, self.muon_c
            dtype = "bfloat16" if self.ns_dtype == "bfloat16" else None
            return orthogonal(matrix, polynomial, self.ns_steps, dtype) * scale

        if sparse.ON_TORCH:  # the host would wait for the GPU
            return direction()
        return ops.cond(frozen, lambda: ops.zeros_like(matrix), direction)


def orthogonal(matrix, polynomial, steps, dtype=None):
    """Apply an odd polynomial of degree 5 to the singular values of a matrix, several times.

    This is the iteration of Newton and Schulz, with coefficients that take all singular values but
    the smallest ones near to 1 in few steps.

    Args:
        matrix: tensor (rows, columns).
        polynomial: a, b and c of a·x + b·x³ + c·x⁵.
        steps: how often.
        dtype: of the products; None for that of the matrix.
    """
    a, b, c = polynomial
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = ops.transpose(matrix) if is_tall else matrix
    x = x / (ops.sqrt(ops.sum(x * x)) + 1e-7)  # no singular value is above 1
    x = ops.cast(x, dtype or matrix.dtype)
    one = ops.eye(x.shape[0], dtype=x.dtype)
    for count in stretches(steps, x):
        square = _times_own_transpose(x)
        factor = None  # of x, by the steps of this stretch
        for step in range(count):
            # the matrix a + b·s + c·s², so that only one product has the columns of x
            last = one * a + square * b + ops.matmul(square, square) * c
            factor = last if factor is None else ops.matmul(last, factor)
            if step < count - 1:
                square = ops.matmul(ops.matmul(last, square), last)
        x = ops.matmul(factor, x)
    return ops.cast(ops.transpose(x) if is_tall else x, matrix.dtype)


def stretches(steps, x):
    """Return how many steps in turn do without x, by the product of x and its transpose alone.

    All these matrices commute. Such a step takes two more products of them, and saves two with x,
    which pays where x is wide. Roundings of the squares grow with a² where a singular value is
    small: by three steps to no more than those of x by five.
    """
    rows, columns = x.shape
    if columns < 2 * rows or "bfloat16" in str(x.dtype):
        return [1] * steps
    return [3] * (steps // 3) + [steps % 3] * (steps % 3 > 0)


def _times_own_transpose(x):
    if sparse.ON_TENSORFLOW:
        import tensorflow as tf

        return tf.matmul(x, x, transpose_b=True)
    return ops.matmul(x, ops.transpose(x))


described(Muon)
keras.saving.register_keras_serializable("fastkeras")(Muon)
