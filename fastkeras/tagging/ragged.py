"""Sequences of different lengths as one ragged tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

from fastkeras.crf.layers.ragged import is_ragged
from fastkeras.training.arguments import optional_integer

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
class PadRagged(keras.layers.Layer):
    """Pad a `tf.RaggedTensor` with zeros, and mask what was padded: the first layer of a model.

    Keras passes ragged tensors from data sets to models, and its Embedding takes them, but not its
    Dense, recurrent, convolutional or attention layers. With this layer after
    `keras.Input(…, ragged=True)`, fit, evaluate, predict and serving take them; labels may be
    ragged too, if the loss is that of a CRF. Dense inputs go through unchanged.

    Args:
        steps: the length of all results; a longer sequence is an error
            (`fastkeras.tagging.document_windows` cuts it). None: the longest of each batch, so that
            `predict` returns a ragged tensor if the batches differ.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        inputs: tf.RaggedTensor of shape (batch, (steps), …), ragged in its steps; or any tensor.
        mask: the mask of dense inputs.

    Returns:
        Shape (batch, steps, …), with a mask of the steps. `Embedding(mask_zero=True)` after it
        makes the same mask, if no token is 0; without `mask_zero` Embedding drops the mask.

    Raises:
        ValueError: `steps` is no integer of at least 1.

    Example:
        >>> import keras
        >>> import tensorflow as tf
        >>> from fastkeras.layers import CRF, PadRagged
        >>> words = keras.Input((None,), dtype="int32", ragged=True)
        >>> x = keras.layers.Embedding(100, 8, mask_zero=True)(PadRagged()(words))
        >>> crf = CRF(3, use_kernel=True)
        >>> model = keras.Model(words, crf(keras.layers.LSTM(8, return_sequences=True)(x)))
        >>> model.compile("adam", crf.loss)
        >>> texts = tf.ragged.constant([[5, 6, 7], [8, 9]])
        >>> history = model.fit(texts, tf.ragged.constant([[0, 1, 2], [1, 1]]), verbose=0)
        >>> crf.decode(model).predict(texts, verbose=0).shape
        (2, 3)

    Source: https://www.tensorflow.org/guide/ragged_tensor.
    """

    def __init__(self, steps: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = optional_integer("steps", steps, 1)
        self.supports_masking = True
        self.supports_jit = False  # XLA has to know how many steps there are

    def build(self, input_shape: Any) -> None:
        """Nothing to make."""
        self.built = True

    def call(self, inputs: Any, mask: Tensor = None) -> Tensor:
        """See the docstring of the class."""
        if not is_ragged(inputs):
            return inputs
        if self.steps is None:
            return inputs.to_tensor()
        import tensorflow as tf

        longest = tf.reduce_max(inputs.row_lengths())
        message = f"a sequence is longer than the {self.steps} steps of PadRagged"
        with tf.control_dependencies(
            [
                tf.debugging.assert_less_equal(
                    longest, tf.constant(self.steps, longest.dtype), message
                )
            ]
        ):
            return inputs.to_tensor(shape=[None, self.steps, *inputs.shape[2:]])

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Where there are steps, bool (batch, steps); of dense inputs, their mask."""
        if not is_ragged(inputs):
            return previous_mask
        import tensorflow as tf

        return tf.sequence_mask(inputs.row_lengths(), self.steps)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the inputs, with the number of steps that is known."""
        batch, steps, *rest = input_shape
        return (batch, self.steps or steps, *rest)

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        """Shape and dtype of the padded tensor."""
        shape = self.compute_output_shape(inputs.shape) if inputs.ragged else inputs.shape
        return keras.KerasTensor(shape, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {**super().get_config(), "steps": self.steps}
