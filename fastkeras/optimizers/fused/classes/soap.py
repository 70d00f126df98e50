"""SOAP: Adam for matrices in the eigenbasis of Shampoo's preconditioner."""

from itertools import chain
from types import MappingProxyType as Table
from typing import Any

import keras
from keras import ops

from fastkeras.optimizers.fused.classes.matrices import ByMatrices
from fastkeras.optimizers.fused.classes.newer import OF_KERAS, described
from fastkeras.optimizers.hyperparameters import check_hyperparameter, checked_integer


class SOAP(ByMatrices):
    """Adam for matrices, in axes in which their gradients are least correlated.

    Vyas et al. 2024, "SOAP: Improving and Stabilizing Shampoo using Adam",
    https://arxiv.org/abs/2409.11321. All that is no matrix goes by AdamW. Products of matrices are
    those of the framework; one kernel call updates all matrices and another one all other
    variables. A matrix of r rows and c columns takes 2rc + 2r² + 2c² numbers of state. At its first
    update a matrix only decays, since it has no axes yet, as in the authors' implementation.

    Args:
        learning_rate: a number, a schedule, or a function without arguments.
        beta_1, beta_2: of the moments of Adam.
        shampoo_beta: of the means of products of the gradient with itself; None for `beta_2`.
        epsilon: is added to the root of the second moment.
        precondition_frequency: the axes are computed anew every so many updates, by one step of the
            power iteration and a QR decomposition.
        max_precondition_size: rows, or columns, of which there are more have no axes of their own;
            a matrix with too many of both goes by AdamW.
        exclude_layers: regular expressions that are searched in the paths of matrices; those found
            go by AdamW.
        exclude_embeddings: whether matrices with "embedding" in their path go by AdamW.
    """

    _ARGUMENTS = Table(
        {"learning_rate": 0.003, "beta_1": 0.95, "beta_2": 0.95, "shampoo_beta": None}
        | {"epsilon": 1e-8}
        | OF_KERAS
        | {"weight_decay": 0.01, "precondition_frequency": 10, "max_precondition_size": 10_000}
        | {"exclude_layers": None, "exclude_embeddings": True}
    )
    _HYPERPARAMETERS = ("beta_1", "beta_2", "epsilon")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.shampoo_beta is not None:
            check_hyperparameter("beta_2", self.shampoo_beta, "shampoo_beta")
        for name in ("precondition_frequency", "max_precondition_size"):
            setattr(self, name, checked_integer(name, getattr(self, name), 1))

    def _goes_by_adam(self, variable):
        return super()._goes_by_adam(variable) or not self._axes_of(variable)

    def _axes_of(self, variable):
        return [a for a, size in enumerate(variable.shape) if size <= self.max_precondition_size]

    def _make_slots(self, variables, are_matrices):
        self._momentums, self._velocities = [], []
        self._products, self._bases = {}, {}  # of matrices, by position: one for each of their axes
        for position, variable in enumerate(variables):
            self._momentums.append(self._made_slot(variable, "momentum"))
            self._velocities.append(self._made_slot(variable, "velocity"))
            if are_matrices[position]:
                sizes = [variable.shape[axis] for axis in self._axes_of(variable)]
                self._products[position], self._bases[position] = (
                    [self._made_state(variable, (size, size), name) for size in sizes]
                    for name in ("product", "basis")
                )

    def _is_matrix(self, position):
        return position in self._products

    def _slots(self, position):
        return self._momentums[position], self._velocities[position]

    def _slots_and_scales(self, position):
        more = self._products.get(position, []), self._bases.get(position, [])
        return [*super()._slots_and_scales(position), *chain(*more)]

    def _state_of_matrix(self, position):
        return self._slots_and_scales(position)

    def _direction(self, position, gradient, held, number, frozen):
        momentum, velocity, *rest = held
        axes = self._axes_of(self._trainable_variables[position])
        products, bases = rest[: len(axes)], rest[len(axes) :]
        is_first = ops.equal(number, 1)  # when there are no bases yet, so that all becomes 0
        momentum = ops.where(
            is_first, momentum, momentum + (gradient - momentum) * (1 - self.beta_1)
        )
        turned = _turned(gradient, axes, bases)
        velocity = velocity + (turned * turned - velocity) * (1 - self.beta_2)
        step = _turned(momentum, axes, bases) / (ops.sqrt(velocity) + self.epsilon)
        count = ops.maximum(number - 1, ops.ones_like(number))
        correction = ops.cast(self._correction(count), step.dtype)
        direction = _turned(step, axes, bases, back=True) * correction
        beta = self.beta_2 if self.shampoo_beta is None else self.shampoo_beta
        products = [
            product + (_with_itself(gradient, axis) - product) * (1 - beta)
            for axis, product in zip(axes, products, strict=True)
        ]
        is_due = ops.equal((number - 1) % self.precondition_frequency, 0)
        is_due = ops.logical_and(is_due, ops.logical_not(frozen))
        velocity, *bases = ops.cond(
            is_due,
            lambda: ops.cond(
                is_first,
                lambda: (velocity, *map(_eigenbasis, products)),
                lambda: _followed(velocity, axes, products, bases),
            ),
            lambda: (velocity, *bases),
        )
        return direction, [momentum, velocity, *products, *bases]


def _turned(matrix, axes, bases, back=False):
    for axis, basis in zip(axes, bases, strict=True):
        if axis == 0:
            matrix = ops.matmul(basis if back else ops.transpose(basis), matrix)
        else:
            matrix = ops.matmul(matrix, ops.transpose(basis) if back else basis)
    return matrix


def _with_itself(matrix, axis):
    across = ops.transpose(matrix)
    return ops.matmul(matrix, across) if axis == 0 else ops.matmul(across, matrix)


def _eigenbasis(product):
    # TensorFlow raises where a number is not finite, also if the step will be skipped
    product = ops.where(ops.isfinite(product), product, ops.zeros_like(product))
    _, vectors = ops.linalg.eigh(product)
    return ops.flip(vectors, axis=1)


def _followed(velocity, axes, products, bases):
    """One step of the power iteration from the bases, in the order of their eigenvalues."""
    found = []
    for axis, product, basis in zip(axes, products, bases, strict=True):
        ahead = ops.matmul(product, basis)
        order = ops.argsort(-ops.sum(basis * ahead, axis=0))
        velocity = ops.take(velocity, order, axis=axis)
        found.append(ops.linalg.qr(ops.take(ahead, order, axis=1))[0])
    return velocity, *found


described(SOAP)
keras.saving.register_keras_serializable("fastkeras")(SOAP)
