"""`tfa.layers.CRF` on Keras 3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from fastkeras.compat.addons.text.crf import crf_decode
from fastkeras.training.arguments import flag, integer, is_integer

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Identifier, Tensor


@keras.saving.register_keras_serializable(package="Addons")
class CRF(keras.layers.Layer):
    """Linear-chain CRF that decodes, with the interface of TensorFlow Addons.

    New code should use `fastkeras.layers.CRF`, which has a loss and takes any mask.

    Args:
        units: number of tags.
        chain_initializer: of the transitions.
        use_boundary: whether the first and the last tag of a sequence get additional scores.
        boundary_initializer: of these scores.
        use_kernel: whether to project the inputs by a Dense layer; else they are only cast.
        **kwargs: of keras.layers.Layer.

    Call arguments:
        inputs: float, shape (batch, steps, channels); channels = units without the kernel.
        mask: bool, shape (batch, steps); the length of a sequence is its number of True.

    Returns:
        A list: decoded tags, int32 (batch, steps); potentials with the boundaries added, float
        (batch, steps, units), in the dtype of the weights; lengths, int64 (batch,); transitions,
        (units, units).

    Raises:
        TypeError: units is not an integer.
        ValueError: units are below 1, a flag is neither True nor False, or the rank of a mask is
            not 2.
        NotImplementedError: a mask begins with False, in eager calls; graphs do not check this.

    Example:
        >>> import numpy as np
        >>> import fastkeras.compat.addons as tfa
        >>> crf = tfa.layers.CRF(3)
        >>> tags, potentials, lengths, transitions = crf(np.ones((2, 5, 4)))
        >>> tags.shape, potentials.shape, lengths.numpy(), transitions.shape
        (TensorShape([2, 5]), TensorShape([2, 5, 3]), array([5, 5]), TensorShape([3, 3]))

    Source: tensorflow_addons.layers.CRF, 0.23.
    """

    def __init__(
        self,
        units: int,
        chain_initializer: Identifier = "orthogonal",
        use_boundary: bool = True,
        boundary_initializer: Identifier = "zeros",
        use_kernel: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # the CRF computes in the dtype of its weights
        if not is_integer(units):
            raise TypeError(f"units must be an int, got {units!r}")
        self.supports_masking = True
        self.units = units = integer("units", units, 1)
        self.use_boundary = flag("use_boundary", use_boundary)
        self.use_kernel = flag("use_kernel", use_kernel)
        self.chain_initializer = keras.initializers.get(chain_initializer)
        self.boundary_initializer = keras.initializers.get(boundary_initializer)
        self.chain_kernel = self._add_scores("chain_kernel", (units, units), self.chain_initializer)
        self.left_boundary = self.right_boundary = None
        self._dense_layer: Any = None
        if use_boundary:
            self.left_boundary = self._add_scores(
                "left_boundary", (units,), self.boundary_initializer
            )
            self.right_boundary = self._add_scores(
                "right_boundary", (units,), self.boundary_initializer
            )
        if use_kernel:
            self._dense_layer = keras.layers.Dense(units, dtype=self.dtype)

    def build(self, input_shape: Any) -> None:
        """Create the kernel for inputs of shape (batch, steps, channels)."""
        if self.use_kernel:
            self._dense_layer.build(input_shape)

    def call(self, inputs: Any, mask: Tensor = None) -> Tensor:
        """See the class."""
        if mask is not None:
            if len(mask.shape) != 2:
                raise ValueError(f"mask must have shape (batch, steps), got {tuple(mask.shape)}")
            starts = self._compute_mask_left_boundary(mask)[:, 0]
            if tf.executing_eagerly() and not tf.reduce_all(starts):
                raise NotImplementedError(
                    "mask must begin with True: this layer does not support left padding, "
                    "fastkeras.layers.CRF does"
                )
        project = self._dense_layer or (lambda inputs: tf.cast(inputs, self.dtype))
        potentials = project(inputs)
        if self.use_boundary:
            potentials = self.add_boundary_energy(
                potentials, mask, self.left_boundary, self.right_boundary
            )
        lengths = self.mask_to_sequence_length(
            tf.ones(tf.shape(inputs)[:2], tf.bool) if mask is None else mask
        )
        tags, _ = self.get_viterbi_decoding(potentials, lengths)
        return [tags, potentials, lengths, tf.convert_to_tensor(self.chain_kernel)]

    def compute_output_spec(self, inputs: Any, mask: Tensor = None) -> Any:
        """Shapes and dtypes of the four results."""
        batch, steps, _ = inputs.shape
        return [
            keras.KerasTensor((batch, steps), "int32"),
            keras.KerasTensor((batch, steps, self.units), self.dtype),
            keras.KerasTensor((batch,), "int64"),
            keras.KerasTensor((self.units, self.units), self.dtype),
        ]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the tags."""
        return tuple(input_shape[:2])

    def compute_mask(self, inputs: Any, mask: Tensor = None) -> Any:
        """The mask, for the tags."""
        return mask

    def mask_to_sequence_length(self, mask: Tensor) -> Tensor:
        """Number of steps that are True, int64 (batch,)."""
        return tf.reduce_sum(tf.cast(mask, tf.int64), axis=1)

    @staticmethod
    def _compute_mask_left_boundary(mask):
        """Where a run of True begins: 0011100 → 0010000."""
        mask = tf.cast(mask, tf.bool)
        return mask & ~tf.concat([tf.zeros_like(mask[:, :1]), mask[:, :-1]], axis=1)

    @staticmethod
    def _compute_mask_right_boundary(mask):
        """Where a run of True ends: 0011100 → 0000100."""
        mask = tf.cast(mask, tf.bool)
        return mask & ~tf.concat([mask[:, 1:], tf.zeros_like(mask[:, :1])], axis=1)

    def add_boundary_energy(
        self, potentials: Tensor, mask: Tensor, start: Tensor, end: Tensor
    ) -> Tensor:
        """Potentials with `start` and `end`, (units,), added where the mask begins and ends."""
        if mask is None:
            mask = tf.ones(tf.shape(potentials)[:2], tf.bool)
        for where, scores in (
            (self._compute_mask_left_boundary(mask), start),
            (self._compute_mask_right_boundary(mask), end),
        ):
            potentials += tf.where(where[..., None], tf.convert_to_tensor(scores), 0)
        return potentials

    def get_viterbi_decoding(
        self, potentials: Tensor, sequence_length: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`crf_decode` with the transitions of this layer: (tags, score)."""
        return crf_decode(potentials, self.chain_kernel, sequence_length)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {
            **super().get_config(),
            "units": self.units,
            "chain_initializer": keras.initializers.serialize(self.chain_initializer),
            "use_boundary": self.use_boundary,
            "boundary_initializer": keras.initializers.serialize(self.boundary_initializer),
            "use_kernel": self.use_kernel,
        }

    def _add_scores(self, name, shape, initializer):
        return self.add_weight(shape, initializer, name=name, autocast=False)
