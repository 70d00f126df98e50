"""The loss of a batch as a function of the weights, which rules differentiate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import backend, ops

from fastkeras.training.gradients.differentiate import value_and_gradients
from fastkeras.training.gradients.own_step import own_step
from fastkeras.training.noise import noise_state, repeat_noise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from fastkeras.typing import Tensor


class Objective:
    """The loss of one batch as a function of the trainable values.

    Gradients are those of the whole batch, also where replicas of `tf.distribute` have a share of
    it each, and are true ones, also where the optimizer scales the loss (mixed float16).

    Args:
        model: the model.
        data: x, y and the sample weights of the batch.
        others: pairs of all other variables of the model (also of its metrics) and their values.
        state: pairs of the optimizer's variables and their values; needed for `step`.

    Attributes:
        replicas: how many of them share the batch. `loss` is then the share of this one in the loss
            of the whole batch, and so must be what a function for `differentiate` returns.

    Example:
        See `train_with`.
    """

    def __init__(
        self,
        model: keras.Model,
        data: tuple[Any, Any, Any],
        others: Sequence[tuple[keras.Variable, Tensor]],
        state: Sequence[tuple[keras.Variable, Tensor]] = (),
    ) -> None:
        self.model, self.data, self.others, self.state = model, data, list(others), list(state)
        self.variables = model.trainable_variables
        self.noise = noise_state()
        self.replicas, self.scale = _replicas(), _loss_scale(model.optimizer, self.state)
        # of the first evaluation: loss, outputs, values of the other variables
        self.first: Any = None

    def loss(self, values: Sequence[Tensor]) -> tuple[Tensor, Any]:
        """The loss, and a pair of the outputs and the new values of the other variables."""
        x, y, weights = self.data
        repeat_noise(self.noise)
        options = {"training": True} if self.model._call_has_training_arg else {}
        mapping = [*zip(self.variables, values, strict=True), *self.others]
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            outputs = self.model(x, **options)
            loss = self.model._compute_loss(x, y, outputs, weights, training=True)
        updates = [scope.get_current_value(variable) for variable, _ in self.others]
        return loss, (outputs, updates)

    def gradients(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of the loss."""
        return self.differentiate(self.loss, values)

    def step(self, values: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """The values after a step of the optimizer by these gradients; nothing changes."""
        return own_step(self.model.optimizer, self.state, self.variables, values, gradients)

    def differentiate(
        self, function: Callable[[list[Tensor]], tuple[Tensor, Any]], values: Sequence[Tensor]
    ) -> list[Tensor]:
        """The gradients of a function that returns a loss, and the second result of `loss`."""
        (loss, rest), gradients = self.value_and_gradients(function, values)
        if self.first is None:
            self.first = loss, *rest
        return self.summed(gradients)

    def value_and_gradients(
        self, function: Callable[[list[Tensor]], tuple[Tensor, Any]], values: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, Any], list[Tensor]]:
        """What the function returns, and its gradients, which can be differentiated again.

        With replicas, these are gradients of the share of this one.
        """
        if self.scale is None:
            return value_and_gradients(function, values)

        def scaled(values):
            loss, rest = function(values)
            return loss * ops.cast(self.scale, loss.dtype), (loss, rest)

        (_, result), gradients = value_and_gradients(scaled, values)
        return result, [g / ops.cast(self.scale, g.dtype) for g in gradients]

    def summed(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The sums of what all replicas have, as constants if there are several replicas."""
        if self.replicas == 1:
            return list(gradients)
        import tensorflow as tf

        gradients = [ops.stop_gradient(gradient) for gradient in gradients]
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)

    def for_apply(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The gradients as the optimizer's `apply` takes them: it divides and sums them itself."""
        if self.scale is None and self.replicas == 1:
            return list(gradients)
        factor = ops.cast(1 if self.scale is None else self.scale, "float32") / self.replicas
        return [gradient * ops.cast(factor, gradient.dtype) for gradient in gradients]


def _replicas():
    """How many replicas share the batch, of tf.distribute; elsewhere 1."""
    if backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def _loss_scale(optimizer, state):
    """The factor by which the optimizer multiplies a loss, or None."""
    is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if not is_scaled and getattr(optimizer, "loss_scale_factor", None) is None:
        return None
    with keras.StatelessScope(state):
        return ops.stop_gradient(optimizer.scale_loss(ops.ones((), "float32")))
