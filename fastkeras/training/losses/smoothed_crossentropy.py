"""Cross-entropy with a label smoothing that can change while training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.training.arguments import flag, number
from fastkeras.training.losses.counted import without_uncounted
from fastkeras.training.losses.labels import positions

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
class SmoothedCrossentropy(keras.losses.Loss):
    """(1 − e)·cross-entropy + e·cross-entropy against the uniform distribution.

    e is the variable `smoothing`: `ScheduleScalar(loss.smoothing, {0: 0.1, 100: 0.01})` changes it
    while training. For a constant e, Keras' own `label_smoothing` does the same.

    Args:
        smoothing: e, from 0 to 1.
        from_logits: whether y_pred are scores; True is more exact.
        sparse: whether labels are integers, of shape y_pred.shape[:-1] (a last axis of 1 may
            follow); otherwise they are distributions.
        reduction: as in `keras.losses.Loss`.
        name: name of the loss.

    Raises:
        ValueError: `smoothing` is out of range.

    Example:
        >>> import numpy as np
        >>> loss = SmoothedCrossentropy(0.1)
        >>> float(loss(np.array([0]), np.array([[0.0, 0.0]])))  # log 2
        0.6931471824645996

    Source: Szegedy et al., 2016, "Rethinking the Inception architecture", section 7; Su Jianlin,
    2018, https://kexue.fm/archives/5765.
    """

    def __init__(
        self,
        smoothing: float = 0.1,
        from_logits: bool = True,
        sparse: bool = True,
        reduction: str = "sum_over_batch_size",
        name: str = "smoothed_crossentropy",
    ) -> None:
        super().__init__(reduction=reduction, name=name)
        number("smoothing", smoothing, "from 0 to 1", lambda smoothing: 0 <= smoothing <= 1)
        self.smoothing = keras.Variable(
            smoothing, trainable=False, dtype="float32", name="smoothing"
        )
        self.from_logits = flag("from_logits", from_logits)
        self.sparse = flag("sparse", sparse)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> Tensor:
        """The loss of a batch, reduced."""
        if self.sparse:  # else Keras casts them to the dtype of scores: 257 is 256 in bfloat16
            y_true = ops.cast(y_true, "float32")
        y_true, y_pred = without_uncounted(y_true, y_pred, sample_weight)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Losses of shape y_pred.shape[:-1]."""
        if self.from_logits:
            logs = ops.log_softmax(y_pred, -1)
        else:
            logs = ops.log(ops.clip(y_pred, keras.config.epsilon(), 1.0))
        if self.sparse:
            labels = positions(y_true, logs.shape[-1])
            if len(labels.shape) < len(logs.shape):
                labels = labels[..., None]
            right = ops.squeeze(ops.take_along_axis(logs, labels, -1), -1)
        else:
            right = ops.sum(y_true * logs, -1)
        smoothing = ops.cast(self.smoothing, logs.dtype)
        return -(1 - smoothing) * right - smoothing * ops.mean(logs, -1)

    def get_config(self) -> dict[str, Any]:
        """The configuration, with the smoothing as it is now."""
        smoothing = float(ops.convert_to_numpy(self.smoothing.value))
        own = {"smoothing": smoothing, "from_logits": self.from_logits, "sparse": self.sparse}
        return {**super().get_config(), **own}
