"""Training steps that evaluate the gradient more than once."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import keras
from keras import backend, ops

from fastkeras._keras_private import get_global_attribute
from fastkeras.training.gradients.objective import Objective
from fastkeras.training.substitution import value_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkeras.typing import Tensor


def train_with(
    model: keras.Model, rule: Callable[[Objective, list[Tensor]], list[Tensor]] | None
) -> keras.Model:
    """Let `fit` of a compiled model find its gradients by a rule.

    Any optimizer works, and gets what the rule finds: with plain SGD, `Heun` is Heun's method.
    All evaluations of a step see the same batch and the same random noise, in dropout too, so that
    they are gradients of one function. The first one, at the present weights, yields the loss and
    metrics that are shown, and updates the moving statistics.

    Works in compiled training on every backend, and over several devices: with the distributions of
    Keras (JAX), and with `tf.distribute`, where every replica follows the rule by the gradients of
    the whole batch, summed over the replicas at each evaluation. Where the loss is scaled (mixed
    float16), the rule sees the gradients without that scale, and a step with an overflow in any
    evaluation is skipped. Gradients of embeddings are dense. `train_on_batch` follows the rule too.

    The rule is saved with the model (`model.save`, `to_json`, pickle), and trains it again after
    `load_model`: a function has to be registered (`keras.saving.register_keras_serializable`), as a
    loss does. Files of weights alone, files of HDF5 and what `clone_model` makes have no rule.

    Args:
        model: a compiled model.
        rule: one of `Heun`, `RungeKutta4`, `Extragradient`, `SAM`, `ASAM`, `FGM`, `PGD`,
            `GradientPenalty`, `VirtualAdversarial`; or a function of an `Objective` and the values
            of the trainable variables that returns gradients. None restores plain training.

    Returns:
        The model. Its class is from now on a subclass of the class it had, with the same name.

    Raises:
        ValueError: `rule` is not a rule, or the model is not compiled.

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
    return _with_rule(model, rule)


_registered = keras.saving.register_keras_serializable("fastkeras", "TrainedWith")


@_registered
class TrainedWith:
    """What `train_with` puts before the class of a model."""

    def train_step(self, *arguments):
        """A step by the rule: of (data), and on JAX of (state, data)."""
        rule = self.__dict__.get("_rule")
        if rule is None:  # a model that `clone_model` made of another one's class
            return super().train_step(*arguments)
        return (_jax_step if backend.backend() == "jax" else _step)(self, rule, *arguments)

    def get_config(self):
        """The model as its own class writes it, and the rule."""
        if get_global_attribute("use_legacy_config"):  # HDF5 files of Keras 2 name no rule
            return super().get_config()
        rule = self.__dict__.get("_rule")
        own = type(self)
        object.__setattr__(self, "__class__", own._without_rule)
        try:
            model = keras.saving.serialize_keras_object(self)
        finally:
            object.__setattr__(self, "__class__", own)
        model.pop("compile_config", None)  # stands beside this configuration
        return {"model": model, "rule": keras.saving.serialize_keras_object(rule)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The model, with its rule."""
        if "rule" not in config:
            return cls._without_rule.from_config(config, custom_objects)
        read = functools.partial(
            keras.saving.deserialize_keras_object, custom_objects=custom_objects
        )
        return _with_rule(read(config["model"]), read(config["rule"]))

    def __reduce__(self):
        """Pickle by the class that can be imported."""
        return keras.Model._unpickle_model, super().__reduce__()[1]


def _with_rule(model, rule):
    of = type(model)._without_rule if isinstance(model, TrainedWith) else type(model)
    # around Keras' tracking: a rule is no part of the model, nor are layers that it may hold
    object.__setattr__(model, "__class__", of if rule is None else _trained_with(of))
    model.__dict__["_rule"] = rule
    model.train_function = None
    return model


@functools.cache
def _trained_with(of):
    body = {name: getattr(of, name) for name in ("__module__", "__qualname__", "__doc__")}
    made = _registered(type(of.__name__, (TrainedWith, of), body | {"_without_rule": of}))
    _registered(TrainedWith)  # all of them are written by this name, which is read by this class
    return made


def _step(model, rule, data):
    """One step on TensorFlow or torch."""
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
    model.optimizer.apply(objective.for_apply(gradients), model.trainable_variables)
    loss, outputs, updates = objective.first
    for (variable, before), after in zip(others, updates, strict=True):
        if after is not before:
            variable.assign(ops.stop_gradient(after))
    loss = ops.stop_gradient(loss) * objective.replicas
    model._loss_tracker.update_state(loss, sample_weight=_batch_size(x))
    outputs = keras.tree.map_structure(ops.stop_gradient, outputs)
    return model.compute_metrics(x, y, outputs, sample_weight=weights)


def _jax_step(model, rule, state, data):
    """One step on JAX, where the values of all variables are passed in and returned."""
    trainable, non_trainable, of_optimizer, of_metrics = state
    x, y, weights = data = keras.utils.unpack_x_y_sample_weight(data)
    variables = (*model.non_trainable_variables, *model.metrics_variables)
    others = zip(variables, (*non_trainable, *of_metrics), strict=True)
    state = zip(model.optimizer.variables, of_optimizer, strict=True)
    objective = Objective(model, data, others, list(state))
    gradients = objective.for_apply(rule(objective, list(trainable)))
    loss, outputs, updates = objective.first
    trainable, of_optimizer = model.optimizer.stateless_apply(of_optimizer, gradients, trainable)
    non_trainable, of_metrics = updates[: len(non_trainable)], updates[len(non_trainable) :]
    logs, of_metrics = model._update_metrics_variables(of_metrics, loss, x, y, outputs, weights)
    return logs, (trainable, non_trainable, of_optimizer, of_metrics)


def _batch_size(x):
    return ops.shape(next(part for part in keras.tree.flatten(x) if part is not None))[0]
