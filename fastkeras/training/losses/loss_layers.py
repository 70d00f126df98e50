"""Losses that are not functions of (y_true, y_pred)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.training.arguments import function, number

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
class LossLayer(keras.layers.Layer):
    """Add a loss computed from any tensors; pass the first of them through.

    Give a function, or override `compute_loss`. Its result is averaged, so it may be a scalar or a
    loss for each example. `fit(x, None)` trains a model whose losses are all of this kind. For
    prediction make a `keras.Model(inputs, outputs)` of the same tensors: it shares the weights and
    needs no targets.

    Args:
        fn: function of the inputs: `fn(a, b)` for a call with `[a, b]`, `fn(a)` for a single
            tensor, `fn(**inputs)` for a dict. Registered functions
            (`keras.saving.register_keras_serializable`) are saved and loaded with the model.
            Without one, the last input is the loss.
        weight: factor of the loss, kept as a variable of the layer: `ScheduleScalar(layer.weight,
            …)` changes it while training.
        output: which input is passed through: a position, or a key of a dict.
        name: name of the layer.
        **options: of `keras.layers.Layer`.

    Raises:
        ValueError: `fn` is not a function, `weight` not a number, or `output` not a position or key
            of the inputs.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from keras import ops
        >>> x = keras.Input((4,))
        >>> decoded = keras.layers.Dense(4)(keras.layers.Dense(2, "relu")(x))
        >>> loss = LossLayer(lambda y, x: ops.square(y - x))([decoded, x])
        >>> model = keras.Model(x, loss)
        >>> model.compile("adam")
        >>> history = model.fit(np.ones((8, 4)), None, verbose=0)

    Source: Su Jianlin, 2019, https://kexue.fm/archives/6311.
    """

    def __init__(
        self,
        fn: Callable[..., Tensor] | None = None,
        weight: float = 1.0,
        output: int | str = 0,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        self.fn = None if fn is None else function("fn", fn)
        number("weight", weight, "a number", lambda weight: True)
        self.output_position = output
        self.weight = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(weight),
            trainable=False,
            dtype="float32",
            name="weight",
        )
        self.supports_masking = True
        self._initial_weight = weight

    def build(self, input_shape: Any) -> None:
        """Make nothing; the layers of a subclass are built when it calls them."""

    def compute_loss(self, *inputs: Any, **named: Any) -> Tensor:
        """The loss: a scalar, or one number for each example."""
        if self.fn is not None:
            return self.fn(*inputs, **named)
        return [*inputs, *named.values()][-1]

    def call(self, inputs: Any) -> Tensor:
        """Add the loss; return the chosen input."""
        loss = applied(self.compute_loss, inputs)
        if loss is None:
            raise ValueError(f"the loss of {self.name!r} is None: its function returns nothing")
        loss = ops.convert_to_tensor(loss)
        dtype = keras.backend.standardize_dtype(loss.dtype)
        if dtype in ("float16", "bfloat16"):
            loss = ops.cast(loss, "float32")
        self.add_loss(ops.mean(loss) * ops.cast(self.weight, loss.dtype))
        return self._passed(inputs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The mask of the input that is passed through."""
        return None if previous_mask is None else self._passed(previous_mask)

    def compute_output_spec(self, inputs: Any, **options: Any) -> Any:
        """Shape and dtype of the input that is passed through."""
        dense = keras.tree.map_structure(spec_of, inputs)
        super().compute_output_spec(dense, **options)  # lets a wrong loss fail early
        return self._passed(dense)

    def _passed(self, inputs):
        if not isinstance(inputs, (list, tuple, dict)):
            return inputs
        try:
            return inputs[self.output_position]
        except (KeyError, IndexError, TypeError):
            names = list(inputs) if isinstance(inputs, dict) else f"0 to {len(inputs) - 1}"
            raise ValueError(f"output={self.output_position!r} must be one of {names}") from None

    def get_config(self) -> dict[str, Any]:
        """The configuration, with the function by its registered name."""
        config = {**super().get_config(), "weight": self._initial_weight}
        own = {"output": self.output_position}
        if self.fn is not None:
            own["fn"] = keras.saving.serialize_keras_object(self.fn)
        if type(self).__init__ is LossLayer.__init__:
            return config | {"fn": None} | own
        # leave out defaults: a subclass may not have all arguments of this class
        return config | {name: value for name, value in own.items() if value != 0}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """A layer of this configuration."""
        if isinstance(config.get("fn"), dict):
            config = {**config, "fn": keras.saving.deserialize_keras_object(config["fn"])}
        return cls(**config)


def add_loss(model: Any, *losses: Tensor) -> keras.Model:
    """Return the functional model with symbolic losses added: the `model.add_loss` of Keras 2.

    The new model shares all layers with the old one and has the same inputs and outputs. The losses
    may depend only on inputs of the model.

    Args:
        model: a functional model, or a symbolic input (or a list of these) for a model that is
            trained by its losses alone; its output is then the first loss.
        losses: symbolic tensors; each is averaged.

    Raises:
        ValueError: no loss was given, or the model is not functional.

    Example:
        >>> import keras
        >>> from keras import ops
        >>> x = keras.Input((4,))
        >>> hidden = keras.layers.Dense(2)(x)
        >>> decoded = keras.layers.Dense(4)(hidden)
        >>> model = keras.Model(x, decoded)
        >>> model = add_loss(model, ops.square(decoded - x), 0.01 * ops.abs(hidden))
        >>> model.output.shape
        (None, 4)
    """
    if not losses:
        raise ValueError("losses: give at least one symbolic tensor")
    inputs, outputs = graph_of(model)
    if outputs is None:
        outputs, losses = LossLayer()(losses[0]), losses[1:]
    flat = keras.tree.flatten(outputs)
    for loss in losses:
        flat[0] = LossLayer()([flat[0], loss])
    return keras.Model(inputs, keras.tree.pack_sequence_as(outputs, flat))


def applied(fn, inputs):
    """Call a function with the tensors of a layer's inputs."""
    if isinstance(inputs, dict):
        return fn(**inputs)
    return fn(*inputs) if isinstance(inputs, (list, tuple)) else fn(inputs)


def spec_of(tensor):
    """Shape and dtype of a tensor, as dense: Keras wrongly takes `0.1 * tensor` to be sparse."""
    return keras.KerasTensor(tensor.shape, dtype=tensor.dtype)


def graph_of(model):
    """The input and output tensors of a functional model; given only inputs, these and None."""
    if isinstance(model, keras.Model):
        if isinstance(model, keras.Sequential) and model.built:
            model = model._functional
        if not hasattr(model, "_outputs_struct"):
            raise ValueError(f"model: {model!r} is not functional; use a LossLayer in its `call`")
        return model._inputs_struct, model._outputs_struct
    return model, None
