"""Layers whose weights are transformed before use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import backend, ops

from fastkeras._keras_private import get_global_attribute, get_stateless_scope
from fastkeras.training.substitution import Substitution, value_of
from fastkeras.training.weights.transforms import WeightTransform
from fastkeras.training.wrapper import LayerWrapper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Self

    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
class Reparameterize(LayerWrapper):
    """Call a layer with some of its weights transformed; gradients flow through the transform.

    The weights before the transform are trained and saved. (Keras' constraints, in contrast, change
    a weight after each update, unknown to the optimizer.)

    If a layer is called several times in one call of the model, TensorFlow and torch transform its
    weights once; under `jit` JAX merges the equal computations. Random transforms draw once for
    each transformation.

    Args:
        layer: any layer: Dense, Conv2D, LSTM, Embedding, BatchNormalization, …, and those of
            several inputs, such as MultiHeadAttention. The wrapper is called as the layer is.
        transform: a `WeightTransform`, such as `SpectralNorm()`, or a function from tensor to
            tensor of the same shape. Each weight gets its own copy.
        weights: names of the weights, or the ends of their paths ("query/kernel").
        **options: of `keras.layers.Layer`.

    Raises:
        ValueError: `weights` is empty, the layer has no weight of such a name, or the transform
            changes the shape.

    Example:
        >>> import keras
        >>> from keras import ops
        >>> from fastkeras.training import SpectralNorm
        >>> layer = Reparameterize(keras.layers.Dense(4), SpectralNorm())
        >>> layer(ops.ones((1, 3))).shape
        TensorShape([1, 4])
        >>> recurrent = Reparameterize(keras.layers.LSTM(4), ops.tanh, ["recurrent_kernel"])

    Source: Su Jianlin, 2019, https://kexue.fm/archives/6311.
    """

    def __init__(
        self,
        layer: keras.Layer,
        transform: WeightTransform | Callable[[Tensor], Tensor],
        weights: Sequence[str] = ("kernel",),
        **options: Any,
    ) -> None:
        super().__init__(layer, **options)
        if not callable(transform):
            raise ValueError(f"transform must be a function or a WeightTransform, got {transform}")
        self.weight_names = [weights] if isinstance(weights, str) else list(weights)
        if not self.weight_names:
            raise ValueError(f"weights={weights!r} must name at least one")
        self._transform = [transform]  # in a list: only its copies are parts of this layer

    def build(self, input_shape: Any = None) -> None:
        """Build the layer and a transform for each weight."""
        super().build(input_shape)
        raw = _named(self.layer, self.weight_names)
        self._raw = lambda: raw  # not a list, whose variables Keras would count as our own
        self.transforms = [self._copy_for(variable) for variable in raw]

    def _copy_for(self, variable):
        (transform,) = self._transform
        if not isinstance(transform, WeightTransform):
            return transform
        transform = transform.copy(variable)
        transform.initial = lambda: value_of(variable)
        transform.build(tuple(variable.shape))
        if transform.replaces:
            variable.trainable = False
        return transform

    def call(self, *inputs: Any, **options: Any) -> Tensor:
        """The layer's output."""
        with Substitution(self._transformed()) as scope:
            outputs = self.layer(*inputs, **options)
        for loss in scope.losses:
            self.add_loss(loss)
        return outputs

    def _transformed(self):
        # on JAX a kept value may belong to a loop that has ended
        context = None if backend.backend() == "jax" else get_global_attribute("current_call_ctx")
        if context is None:
            return self._computed()
        scope, stop = get_stateless_scope(), lambda value: value
        if getattr(scope, "stops_gradients", False) and self._done(context, scope.original_scope):
            scope, stop = scope.original_scope, ops.stop_gradient
        values = self._done(context, scope)
        if values is None:
            values = self._computed()
            done = context.get_value("reparameterized", [])
            context.set_value("reparameterized", [*done, ((self, scope, _graph()), values)])
        return [(variable, stop(value)) for variable, value in values]

    def _computed(self):
        pairs = zip(self._raw(), self.transforms, strict=True)
        return [(variable, transform(value_of(variable))) for variable, transform in pairs]

    def _done(self, context, scope):
        """The values that this call of the model has already computed in a scope, or None."""
        key = self, scope, _graph()
        for other, values in context.get_value("reparameterized", []):
            if all(a is b for a, b in zip(key, other, strict=True)):
                return values
        return None

    def transformed_weights(self) -> dict[str, Tensor]:
        """The weights as the layer uses them, by path."""
        return {variable.path: value for variable, value in self._transformed()}

    def get_config(self) -> dict[str, Any]:
        """The configuration; a function by its registered name."""
        transform = keras.saving.serialize_keras_object(self._transform[0])
        return {**super().get_config(), "transform": transform, "weights": self.weight_names}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        """A layer of this configuration."""
        read = keras.saving.deserialize_keras_object
        config = {key: read(x) if key in ("layer", "transform") else x for key, x in config.items()}
        return cls(**config)


def _named(layer, names):
    found = []
    for name in names:
        of_name = [v for v in layer.weights if f"/{v.path}".endswith(f"/{name}")]
        if not of_name:
            known = ", ".join(v.path for v in layer.weights) or "none"
            raise ValueError(f"weights: {name!r} is no weight of {layer.name!r}, which has {known}")
        found += [v for v in of_name if not any(v is other for other in found)]
    return found


def _graph():
    if backend.backend() == "tensorflow":
        import tensorflow as tf

        return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    return None
