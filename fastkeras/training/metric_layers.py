"""Any tensor inside a model as a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import backend, ops

from fastkeras._keras_private import get_stateless_scope, in_symbolic_scope
from fastkeras.training.arguments import function
from fastkeras.training.losses.loss_layers import applied, graph_of, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
class MetricLayer(keras.layers.Layer):
    """Show the running mean of any tensor in the progress bar, the history and TensorBoard.

    Passes its input (the first of several) through without changing gradients. The mean is over the
    batches since the epoch began, all with the same weight. `evaluate` and validation show it too.

    On JAX it does not work inside a loop (`ops.scan`) or `keras.remat`: values cannot leave them.

    Args:
        name: name of the metric, and of the layer.
        fn: function of the inputs, as in `LossLayer`; its mean is shown. Without one, the mean of
            the last input is.
        **options: of `keras.layers.Layer`.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from keras import ops
        >>> x = keras.Input((4,))
        >>> hidden = keras.layers.Dense(2)(x)
        >>> hidden = MetricLayer("norm", lambda h: ops.sum(h * h, -1))(hidden)
        >>> model = keras.Model(x, keras.layers.Dense(1)(hidden))
        >>> model.compile("adam", "mse")
        >>> sorted(model.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0).history)
        ['loss', 'norm']

    Source: Su Jianlin, 2019, https://kexue.fm/archives/6311.
    """

    def __init__(self, name: str, fn: Callable[..., Tensor] | None = None, **options: Any) -> None:
        super().__init__(name=name, **options)
        self.fn = None if fn is None else function("fn", fn)
        self.metric = keras.metrics.Mean(name=self.name)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Nothing to make."""

    def call(self, inputs: Any) -> Tensor:
        """Count the value; return the (first) input."""
        value = applied(self.fn or (lambda *inputs: inputs[-1]), inputs)
        value = ops.stop_gradient(ops.mean(ops.cast(value, "float32")))
        first = keras.tree.flatten(inputs)[0]
        if in_symbolic_scope():
            return first
        scope = get_stateless_scope()
        if backend.backend() != "jax" or scope is None:
            self.metric.update_state(value)
        elif scope.collect_losses:
            counted = _CountedByTheLoss(self.metric, value)
            scope.add_loss(counted)
            self._loss_ids.add(id(counted))
        return first

    def compute_output_spec(self, inputs: Any) -> Any:
        """Shape and dtype of the first input."""
        dense = keras.tree.map_structure(spec_of, inputs)
        super().compute_output_spec(dense)  # lets a wrong function fail early
        return keras.tree.flatten(dense)[0]

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The mask of the first input."""
        return previous_mask[0] if isinstance(previous_mask, (list, tuple)) else previous_mask

    def get_config(self) -> dict[str, Any]:
        """The configuration, with the function by its registered name."""
        fn = None if self.fn is None else keras.saving.serialize_keras_object(self.fn)
        return {**super().get_config(), "fn": fn}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """A layer of this configuration."""
        if isinstance(config.get("fn"), dict):
            config = {**config, "fn": keras.saving.deserialize_keras_object(config["fn"])}
        return cls(**config)


def watch(tensor: Tensor, name: str, fn: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Return the tensor, and show its running mean (or that of `fn(tensor)`) under this name.

    Go on with the tensor returned: a layer that no output depends on does not run.

    Args:
        tensor: a symbolic tensor of a functional model.
        name: name of the metric.
        fn: function of the tensor; None for the tensor itself.

    Example:
        >>> import keras
        >>> hidden = keras.layers.Dense(2)(keras.Input((4,)))
        >>> hidden = watch(hidden, "hidden_mean")
    """
    return MetricLayer(name, fn)(tensor)


def add_metric(model: keras.Model, tensor: Tensor, name: str) -> keras.Model:
    """Return the functional model with a metric added: the `model.add_metric` of Keras 2.

    The new model shares all layers with the old one and has the same inputs and outputs.

    Args:
        model: a functional model.
        tensor: a symbolic tensor that depends on the model's inputs; its running mean is shown.
        name: name of the metric.

    Raises:
        ValueError: the model is not a functional one.

    Example:
        >>> import keras
        >>> from keras import ops
        >>> x = keras.Input((4,))
        >>> hidden = keras.layers.Dense(2)(x)
        >>> model = keras.Model(x, keras.layers.Dense(1)(hidden))
        >>> model = add_metric(model, ops.sum(hidden**2, -1), "hidden_norm")
    """
    inputs, outputs = graph_of(model)
    if outputs is None:
        raise ValueError(f"model must be a functional keras.Model, got {model!r}")
    flat = keras.tree.flatten(outputs)
    flat[0] = MetricLayer(name)([flat[0], tensor])
    return keras.Model(inputs, keras.tree.pack_sequence_as(outputs, flat))


class _CountedByTheLoss:
    """A loss of 0 that updates a metric when it is added to the others.

    Keras' JAX trainer drops changes of metrics by the forward pass, but keeps those by the
    computation of the loss.
    """

    dtype, shape = "float32", ()

    def __init__(self, metric, value):
        self.metric, self.value = metric, value

    def __jax_array__(self):
        self.metric.update_state(self.value)
        return ops.zeros(())
