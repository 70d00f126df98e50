"""Muon: matrices move by their momentum made orthogonal, all other variables by AdamW."""

import math
import re
from collections.abc import Sequence
from types import MappingProxyType as Table
from typing import Any

import keras
from keras import ops

from fastkeras.optimizers import chains as of_transforms
from fastkeras.optimizers import rounding
from fastkeras.optimizers.fused import sparse
from fastkeras.optimizers.fused.matching import path_of
from fastkeras.optimizers.fused.newer import OF_KERAS, Tabled, described
from fastkeras.optimizers.fused.optimizer import Fused
from fastkeras.optimizers.hyperparameters import check_hyperparameter
from fastkeras.optimizers.transforms import sanitize


class Muon(Fused, Tabled):
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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        given: list[str] | None = vars(self)["exclude_layers"]
        self.exclude_layers = list(given or [])
        check_hyperparameter("beta_1", self.adam_beta_1)
        check_hyperparameter("beta_2", self.adam_beta_2)
        for name in ("epsilon", "momentum"):
            check_hyperparameter(name, getattr(self, name))
        if not self.adam_lr_ratio > 0:
            raise ValueError(f"adam_lr_ratio must be above 0, got {self.adam_lr_ratio!r}")
        if not isinstance(self.ns_steps, int) or self.ns_steps < 1:
            raise ValueError(f"ns_steps must be an integer of at least 1, got {self.ns_steps!r}")
        if self.ns_dtype not in ("float32", "bfloat16"):
            raise ValueError(f'ns_dtype must be "float32" or "bfloat16", got {self.ns_dtype!r}')
        if self.moment_bits != 32:
            raise ValueError(f"moment_bits must be 32 for Muon, got {self.moment_bits!r}")
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
        self.momentums, self.adam_velocities = [], []
        for variable in variables:
            goes_by_adam = self._goes_by_adam(variable)
            self.momentums.append(self._made_slot(variable, "momentum"))
            self.adam_velocities.append(
                self._made_slot(variable, "velocity") if goes_by_adam else None
            )

    def _goes_by_adam(self, variable):
        path = path_of(variable)
        return (
            len(variable.shape) != 2
            or 0 in variable.shape
            or (self.exclude_embeddings and "embedding" in path.lower())
            or any(re.search(pattern, path) for pattern in self.exclude_layers)
        )

    def _resolve_flags(self, variables):
        lazy, adapted = super()._resolve_flags(variables)
        if any(lazy + adapted):
            raise ValueError(
                "layer_adaptation and lazy are not for Muon, which goes by whole matrices already"
            )
        return lazy, adapted

    def _rule(self):
        return "adam"

    def _slots(self, position):
        slots = (self.momentums[position], self.adam_velocities[position])
        return slots[:1] if slots[1] is None else slots

    def _hyperparameters(self, number, numbers):
        of_adam = {"beta_1": self.adam_beta_1, "beta_2": self.adam_beta_2}
        return of_adam | {"epsilon": self.epsilon}

    def _decay_of(self, position, variable):
        override = self._settings.decays[position]
        is_matrix = self.adam_velocities[position] is None
        decay = self.weight_decay if is_matrix else self.adam_weight_decay
        decay = decay if override is None else override
        if override is None and not self._use_weight_decay(variable):
            return 0.0
        return decay or 0.0

    def _groups(self, positions):
        of_adam = [self.adam_velocities[position] is not None for position in positions]
        matrices = [i for i, is_adam in enumerate(of_adam) if not is_adam]
        others = [i for i, is_adam in enumerate(of_adam) if is_adam]
        groups = [("sgd", 1, matrices), ("adam", self.adam_lr_ratio, others)]
        return [group for group in groups if group[2]]

    def _directions(self, gradients, variables, positions, chains, frozen):
        finite = True
        if any(chains):  # norms may span both kinds of variables
            gradients, finite = self._transformed(gradients, variables, positions, chains, frozen)
            chains = [()] * len(chains) if finite is True else [(sanitize(),)] * len(chains)
        directions = list(gradients)
        for i, position in enumerate(positions):
            if self.adam_velocities[position] is not None:
                continue
            held = self.momentums[position]
            old = ops.convert_to_tensor(held)
            gradient = ops.cast(sparse.dense(gradients[i]), old.dtype)
            momentum = old * self.momentum + gradient
            ahead = gradient + momentum * self.momentum if self.nesterov else momentum
            directions[i] = self._orthogonal_unless(frozen[i], ahead)
            stays = frozen[i] if finite is True else ops.logical_or(frozen[i], ~finite)
            self.assign(held, ops.where(stays, old, momentum))
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
    for _ in range(steps):
        square = _times_own_transpose(x)
        # the matrix a + b·s + c·s², so that only one product has the columns of x
        x = ops.matmul(one * a + square * b + ops.matmul(square, square) * c, x)
    return ops.cast(ops.transpose(x) if is_tall else x, matrix.dtype)


def _times_own_transpose(x):
    if sparse.ON_TENSORFLOW:
        import tensorflow as tf

        return tf.matmul(x, x, transpose_b=True)
    return ops.matmul(x, ops.transpose(x))


described(Muon)
keras.saving.register_keras_serializable("fastkeras")(Muon)
