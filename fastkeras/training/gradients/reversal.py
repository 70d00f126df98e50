"""Gradients reversed or cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras._arrays import as_numpy
from fastkeras.training.arguments import flag, number
from fastkeras.training.noise import noise_state, repeat_noise
from fastkeras.training.substitution import Substitution, value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from fastkeras.typing import Tensor


def gradient_reversal(x: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Return x; its gradient is multiplied by −scale on the way back.

    Args:
        x: a float tensor of any shape.
        scale: a number, or a tensor of one.

    Example:
        >>> from keras import ops
        >>> gradient_reversal(ops.ones(3)).shape
        TensorShape([3])

    Source: Ganin & Lempitsky, 2015, "Unsupervised domain adaptation by backpropagation".
    """
    # stop_gradient((1 + scale) x) − scale x would round x, and turn infinities into NaN

    @ops.custom_gradient
    def reversed_(x):
        def gradient(*upstream, **named):
            return -scale * (named["upstream"] if named else upstream[-1])

        return x + 0, gradient

    return reversed_(ops.convert_to_tensor(x))


def gradient_after_loss(loss: Tensor) -> Tensor:
    """Return a loss whose gradient is computed after its value; only TensorFlow needs this.

    If a loss is linear in the outputs, as that of a Wasserstein GAN or a hinge, its gradient does
    not need their values. On CPUs, TensorFlow 2.21 may then compute a gradient from a weight that
    the step has already changed: its graph optimizer drops the dependency between them.

    Args:
        loss: tensor of any shape.

    Example:
        >>> from keras import ops
        >>> float(gradient_after_loss(ops.mean(ops.ones(3))))
        1.0
    """
    if keras.backend.backend() != "tensorflow":
        return loss
    import tensorflow as tf

    @tf.custom_gradient
    def after(loss):
        def gradient(upstream):
            return tf.where(tf.math.is_nan(loss), loss, upstream)  # so that it needs the value

        return tf.identity(loss), gradient

    return after(loss)


def stop_gradient_through(
    layer: keras.Layer,
    keep_updates: bool = False,
    state: Sequence[tuple[keras.Variable, Tensor]] = (),
) -> Callable[..., Any]:
    """Return a function that calls the layer, with gradients for its inputs but not its weights.

    It freezes the layer for one call, as `layer.trainable = False` does for a whole model: so the
    same layer can be trained by one loss and fixed in another.

    Args:
        layer: a built layer or model.
        keep_updates: whether the call may change other state of the layer: the moving statistics of
            a BatchNormalization, the seed of a Dropout. If not, the next call has the same noise.
        state: pairs of such a variable and its value in this call; others have their present value.

    Raises:
        ValueError: the layer is not built, or `keep_updates` is neither True nor False.

    Example:
        >>> import keras
        >>> from keras import ops
        >>> layer = keras.layers.Dense(2)
        >>> layer.build((None, 3))
        >>> fixed = stop_gradient_through(layer)
        >>> fixed(ops.ones((1, 3))).shape
        TensorShape([1, 2])
    """
    keep_updates = flag("keep_updates", keep_updates)
    if not layer.built:
        raise ValueError(f"layer: {layer.name!r} is not built yet; call it or `build` it first")

    def call(*inputs, **options):
        values = [(v, ops.stop_gradient(value_of(v))) for v in layer.trainable_variables]
        noise = noise_state()
        with Substitution([*values, *state], keep_updates) as scope:
            scope.stops_gradients = True  # `Reparameterize` may have computed its weights before
            outputs = layer(*inputs, **options)
        if not keep_updates:
            repeat_noise(noise)
        return outputs

    return call


@keras.saving.register_keras_serializable("fastkeras")
class GradientReversal(keras.layers.Layer):
    """`gradient_reversal` as a layer, for functional models and domain-adversarial training.

    Args:
        scale: the gradient is multiplied by −scale; a number, or a variable, for a schedule.
        **options: of `keras.layers.Layer`.

    Raises:
        ValueError: `scale` is not a number.

    Example:
        >>> import keras
        >>> features = keras.layers.Dense(4)(keras.Input((3,)))
        >>> domain = keras.layers.Dense(1)(GradientReversal(0.1)(features))
    """

    def __init__(self, scale: float | keras.Variable = 1.0, **options: Any) -> None:
        super().__init__(**options)
        is_variable = hasattr(scale, "assign")  # for a schedule
        self.scale = scale if is_variable else number("scale", scale, "a number", lambda s: True)
        self.supports_masking = True

    def call(self, inputs: Any) -> Tensor:
        """The inputs."""
        return gradient_reversal(inputs, self.scale)

    def compute_output_spec(self, inputs: Any) -> Any:
        """That of the inputs."""
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        scale = float(as_numpy(ops.convert_to_tensor(self.scale)))
        return {**super().get_config(), "scale": scale}
