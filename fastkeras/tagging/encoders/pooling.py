"""One vector of a whole sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.crf.layers.output import at_least_float32
from fastkeras.crf.layers.ragged import padded
from fastkeras.training.arguments import one_of, optional_integer
from fastkeras.training.masking import normalized, without_masked

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor

POOLINGS = ("mean", "max", "attention")


@keras.saving.register_keras_serializable("fastkeras")
class SequencePooling(keras.layers.Layer):
    """One vector for each sequence, from those of its steps that are not masked.

    `keras.layers.GlobalMaxPooling1D` ignores the mask, and `GlobalAveragePooling1D` makes NaN of a
    sequence whose steps are all masked; here its vector is 0. With "attention", it is the mean
    weighted by softmax(⟨w, tanh(W x + b)⟩) over the steps.

    Args:
        pooling: "mean", "max" or "attention".
        units: for "attention", the size of W x; None for the channels of the input.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        inputs: float, shape (batch, steps, channels), or a `tf.RaggedTensor` of that shape.
        mask: bool, shape (batch, steps), or None for the mask that comes with the inputs.

    Returns:
        Shape (batch, channels), in the compute dtype, without a mask. Sums are computed in at least
        float32.

    Raises:
        ValueError: another pooling, or `units` below 1.

    Example:
        >>> import numpy as np
        >>> from fastkeras.layers import SequencePooling
        >>> x = np.array([[[-3.0], [-1.0], [9.0]]])
        >>> mask = np.array([[True, True, False]])
        >>> [float(SequencePooling(p)(x, mask=mask)[0, 0]) for p in ("mean", "max")]
        [-2.0, -1.0]

    Source: Lin et al., 2017, "A structured self-attentive sentence embedding", arXiv 1703.03130,
        for "attention".
    """

    def __init__(self, pooling: str = "mean", units: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pooling = one_of("pooling", pooling, POOLINGS)
        self.units = optional_integer("units", units, 1)
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape: Any) -> None:
        """Create the weights of the attention, for inputs of shape (batch, steps, channels)."""
        if self.pooling == "attention":
            units, policy = self.units or input_shape[-1], self.dtype_policy
            self.hidden = keras.layers.Dense(units, "tanh", dtype=policy, name="hidden")
            self.score = keras.layers.Dense(1, use_bias=False, dtype=policy, name="score")
            self.hidden.build(input_shape)
            self.score.build((None, None, units))
        self.built = True

    def call(self, inputs: Any, mask: Tensor = None) -> Tensor:
        """See the docstring of the class."""
        inputs, mask = padded(inputs, mask)
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(inputs.dtype)):
            inputs = ops.cast(inputs, self.compute_dtype)  # integers would be cut off at the end
        dtype = inputs.dtype
        inputs = inputs if self.pooling == "max" else without_masked(inputs, mask)
        wide = at_least_float32(inputs)
        if mask is None:
            counts = ops.ones_like(inputs[..., 0], dtype="bool")
        else:
            counts = ops.cast(mask, "bool")
        if self.pooling == "max":
            lowest = ops.cast(float("-inf"), wide.dtype)
            kept = ops.where(counts[..., None], wide, lowest)
            largest = ops.max(kept, axis=1, initial=float("-inf"))  # also where there is no step
            found = ops.any(counts, axis=1)[:, None]
            # on torch the maximum of an array of no numbers has no axes
            nothing = ops.zeros((ops.shape(wide)[0], wide.shape[2]), wide.dtype)
            return ops.cast(ops.where(found, largest, nothing), dtype)
        if self.pooling == "attention":
            weights = normalized(
                ops.cast(self.score(self.hidden(inputs))[..., 0], wide.dtype), counts
            )
        else:
            weights = ops.cast(counts, wide.dtype)
            weights = weights / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1)
        return ops.cast(ops.einsum("bt,btc->bc", weights, wide), dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """No mask: there are no steps any more."""
        return None

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """(batch, channels)."""
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {**super().get_config(), "pooling": self.pooling, "units": self.units}
