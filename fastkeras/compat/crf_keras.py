"""The CRF of Su Jianlin's article, `crf_keras.CRF`: a matrix, a loss and an accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras import crf
from fastkeras.crf.layers.output import at_least_float32
from fastkeras.training.arguments import flag

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable(package="fastkeras.compat", name="crf_keras.CRF")
class CRF(keras.layers.Layer):
    """Owns the transitions `trans`; returns its inputs, on which `loss` and `accuracy` work.

    Args:
        ignore_last_label: whether the last label is not a tag but marks padding: then labels and
            inputs have one more channel than there are tags.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: `ignore_last_label` is neither True nor False.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.compat.crf_keras import CRF
        >>> layer = CRF(ignore_last_label=True)
        >>> model = keras.Sequential([keras.layers.Dense(2 + 1), layer])
        >>> model.compile("adam", loss=layer.loss, metrics=[layer.accuracy])
        >>> labels = np.eye(3)[[[0, 1, 2]]]  # two tags, and padding
        >>> history = model.fit(np.ones((1, 3, 4)), labels, verbose=0)
        >>> tuple(layer.trans.shape)
        (2, 2)

    Source: https://kexue.fm/archives/5542 and github.com/bojone/crf.
    """

    def __init__(self, ignore_last_label: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore_last_label = flag("ignore_last_label", ignore_last_label)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Create the transitions for inputs of shape (batch, steps, channels)."""
        self.num_labels = input_shape[-1] - self.ignore_last_label
        shape = (self.num_labels, self.num_labels)
        self.trans = self.add_weight(shape, "glorot_uniform", name="crf_trans", autocast=False)

    def call(self, inputs: Any) -> Tensor:
        """The inputs."""
        return inputs + ops.zeros((), inputs.dtype)  # a new tensor, without a mask

    def compute_mask(self, inputs: Any, mask: Tensor = None) -> Any:
        """None: the loss finds its mask in the labels."""

    def loss(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Negative log-likelihoods, (batch, 1), of one-hot labels (batch, steps, channels)."""
        y_true, logits = ops.convert_to_tensor(y_true), at_least_float32(y_pred)
        logits = logits[..., : self.num_labels]
        tags = ops.argmax(y_true[..., : self.num_labels], axis=-1)
        trans = ops.convert_to_tensor(self.trans)
        return -crf.log_likelihood(logits, tags, trans, mask=self._mask(y_true))[:, None]

    def accuracy(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Share of the steps whose largest logit, transitions ignored, is that of the label."""
        y_true = ops.convert_to_tensor(y_true)
        true, found = (ops.argmax(y[..., : self.num_labels], axis=-1) for y in (y_true, y_pred))
        mask = self._mask(y_true)
        return ops.sum(ops.cast(mask & (true == found), "float32")) / ops.sum(
            ops.cast(mask, "float32")
        )

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {**super().get_config(), "ignore_last_label": self.ignore_last_label}

    def _mask(self, y_true):
        if self.ignore_last_label:
            return y_true[..., -1] < 0.5
        return ops.ones(ops.shape(y_true)[:2], "bool")
