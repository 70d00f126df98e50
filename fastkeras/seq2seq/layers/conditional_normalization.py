"""Layer normalization whose scale and shift depend on a condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.crf.layers.output import at_least_float32
from fastkeras.seq2seq.arguments import number
from fastkeras.training.masking import without_masked

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
class ConditionalLayerNormalization(keras.layers.Layer):
    """γ(c) · (x − mean) / √(variance + ε) + β(c), over the last axis, with a condition c.

    γ(c) = γ + G c and β(c) = β + B c. G and B are initially zero, so that the layer starts as an
    ordinary layer normalization.

    Args:
        epsilon: ε.
        **options: those of `keras.layers.Layer`.

    Call:
        inputs: (batch, …, size); their mask goes on to the result.
        condition: (batch, condition size), the same for all steps, or (batch, …, condition size).

    Raises:
        ValueError: the condition has more axes than the inputs, or ε is below 0.

    Example:
        >>> import numpy as np
        >>> from fastkeras.layers import ConditionalLayerNormalization
        >>> layer = ConditionalLayerNormalization()
        >>> layer(np.array([[[1.0, 3.0]]]), np.ones((1, 5)))[0, 0].numpy().round(2)
        array([-1.,  1.], dtype=float32)

    Source: Su Jianlin, 2020, https://kexue.fm/archives/7124; de Vries et al., 2017, "Modulating
    early visual processing by language".
    """

    def __init__(self, epsilon: float = 1e-3, **options: Any) -> None:
        super().__init__(**options)
        self.epsilon = number("epsilon", epsilon, lambda value: value >= 0, " of at least 0")
        self.supports_masking = True

    def build(self, inputs_shape: Any, condition_shape: Any) -> None:
        size, sizes = inputs_shape[-1], (condition_shape[-1], inputs_shape[-1])
        self.gamma = self.add_weight(name="gamma", shape=(size,), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(size,), initializer="zeros")
        self.to_gamma = self.add_weight(name="to_gamma", shape=sizes, initializer="zeros")
        self.to_beta = self.add_weight(name="to_beta", shape=sizes, initializer="zeros")
        self.built = True

    def call(
        self,
        inputs: Tensor,
        condition: Tensor,
        inputs_mask: Tensor = None,
        condition_mask: Tensor = None,
    ) -> Tensor:
        inputs = without_masked(inputs, inputs_mask)
        condition = without_masked(condition, condition_mask)
        missing = len(inputs.shape) - len(condition.shape)
        if missing < 0:
            raise ValueError(
                f"condition must have at most the axes of inputs, got {tuple(condition.shape)} for "
                f"{tuple(inputs.shape)}"
            )
        for _ in range(missing):
            condition = ops.expand_dims(condition, axis=-2)
        gamma = self.gamma + ops.matmul(condition, self.to_gamma)
        beta = self.beta + ops.matmul(condition, self.to_beta)
        wide = at_least_float32(inputs)
        centred = wide - ops.mean(wide, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
        normal = centred * ops.rsqrt(variance + self.epsilon)
        return gamma * ops.cast(normal, gamma.dtype) + beta

    def compute_output_shape(
        self, inputs_shape: Any, condition_shape: Any
    ) -> tuple[int | None, ...]:
        return inputs_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}
