"""Training steps that evaluate the gradient more than once."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import keras
from keras import backend, ops

from fastkeras.training.gradients.differentiate import value_and_gradients
from fastkeras.training.gradients.own_step import own_step
from fastkeras.training.noise import noise_state, repeat_noise
from fastkeras.training.substitution import value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from fastkeras.typing import Tensor


def train_with(
    model: keras.Model, rule: Callable[[Objective, list[Tensor]], list[Tensor]] | None
) -> keras.Model:
    """Let `fit` of a compiled model find its gradients by a rule.

    Any optimizer works, and gets what the rule finds: with plain SGD, `Heun` is Heun's method.
    All evaluations of a step see the same batch and the same random noise, in dropout too, so that
    they are gradients of one function. The first one, at the present weights, yields the loss and
    metrics that are shown, and updates the moving statistics.

    Works in compiled training on every backend, and over several devices with the distributions of
    Keras (JAX). Two cases are refused, here and, if `compile` comes in between, at the first step:
    several replicas under `tf.distribute`, each of which would follow the rule by its own share of
    the batch alone; and `LossScaleOptimizer` (mixed float16), which scales what a rule takes for
    gradients. Gradients of embeddings are dense. Saved models do not keep the rule: call this
    again after loading. `train_on_batch` follows it too.

    Args:
        model: a compiled model.
        rule: one of `Heun`, `RungeKutta4`, `Extragradient`, `SAM`, `ASAM`, `FGM`, `PGD`,
            `GradientPenalty`, `VirtualAdversarial`; or a function of an `Objective` and the values
            of the trainable variables that returns gradients. None restores plain training.

    Returns:
        The model.

    Raises:
        ValueError: `rule` is not a rule, or the model is not compiled, has a LossScaleOptimizer, or
            is trained on several replicas under `tf.distribute`.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.training import SAM
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> history = train_with(model, SAM(0.05)).fit(np.ones((4, 2)), np.ones(4), verbose=0)

    Source: Su Jianlin, 2018, https://kexue.fm/archives/5879.
    """
    if not model.compiled or model.optimizer is None:
        raise ValueError("model is not compiled: compile it before")
    if rule is not None and (not callable(rule) or isinstance(rule, type)):
        raise ValueError(f"rule={rule!r} must be a rule such as SAM(), a function, or None")
    _check(model)
    if rule is None:
        model.__dict__.pop("train_step", None)
    else:
        step = _jax_step if backend.backend() == "jax" else _step
        model.train_step = functools.partial(step, model, rule)
    model.train_function = None
    return model


class Objective:
    """The loss of one batch as a function of the trainable values.

    Args:
        model: the model.
        data: x, y and the sample weights of the batch.
        others: pairs of all other variables of the model (also of its metrics) and their values.
        state: pairs of the optimizer's variables and their values; needed for `step`.

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
        (loss, rest), gradients = value_and_gradients(function, values)
        if self.first is None:
            self.first = loss, *rest
        return gradients


def _step(model, rule, data):
    """One step on TensorFlow or torch."""
    _check(model)
    x, y, weights = data = keras.utils.unpack_x_y_sample_weight(data)
    others = [
        (variable, ops.stop_gradient(value_of(variable)))
        for variable in (*model.non_trainable_variables, *model.metrics_variables)
    ]
    values = [ops.stop_gradient(value_of(variable)) for variable in model.trainable_variables]
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    state = [(v, ops.stop_gradient(value_of(v))) for v in model.optimizer.variables]
    objective = Objective(model, data, others, state)
    gradients = [ops.stop_gradient(gradient) for gradient in rule(objective, values)]
    model.optimizer.apply(gradients, model.trainable_variables)
    loss, outputs, updates = objective.first
    for (variable, before), after in zip(others, updates, strict=True):
        if after is not before:
            variable.assign(ops.stop_gradient(after))
    loss = ops.stop_gradient(loss)
    model._loss_tracker.update_state(loss, sample_weight=_batch_size(x))
    outputs = keras.tree.map_structure(ops.stop_gradient, outputs)
    return model.compute_metrics(x, y, outputs, sample_weight=weights)


def _jax_step(model, rule, state, data):
    """One step on JAX, where the values of all variables are passed in and returned."""
    _check(model)
    trainable, non_trainable, of_optimizer, of_metrics = state
    x, y, weights = data = keras.utils.unpack_x_y_sample_weight(data)
    variables = (*model.non_trainable_variables, *model.metrics_variables)
    others = zip(variables, (*non_trainable, *of_metrics), strict=True)
    state = zip(model.optimizer.variables, of_optimizer, strict=True)
    objective = Objective(model, data, others, state)
    gradients = rule(objective, list(trainable))
    loss, outputs, updates = objective.first
    trainable, of_optimizer = model.optimizer.stateless_apply(of_optimizer, gradients, trainable)
    non_trainable, of_metrics = updates[: len(non_trainable)], updates[len(non_trainable) :]
    logs, of_metrics = model._update_metrics_variables(of_metrics, loss, x, y, outputs, weights)
    return logs, (trainable, non_trainable, of_optimizer, of_metrics)


def _check(model):
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "model: its LossScaleOptimizer (mixed float16) scales the loss, and so every gradient "
            "that the rule would see; use mixed_bfloat16, or compile with auto_scale_loss=False"
        )
    strategy = getattr(model, "distribute_strategy", None)  # on TensorFlow
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            f"model: {strategy.num_replicas_in_sync} replicas under tf.distribute would each "
            "follow the rule by the gradients of their own share of the batch; train on one device"
        )


def _batch_size(x):
    return ops.shape(next(part for part in keras.tree.flatten(x) if part is not None))[0]
