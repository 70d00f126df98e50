"""The loss for training a decoder: cross-entropy over the tokens that are not padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.seq2seq.arguments import integer
from fastkeras.training.losses.smoothed_crossentropy import SmoothedCrossentropy

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
class SequenceCrossentropy(SmoothedCrossentropy):
    """The mean cross-entropy of all tokens of a batch that are not padding.

    Padding changes neither the loss nor its gradient. Without smoothing, loss · number of tokens is
    the negative log-likelihood of the sequences.

    Args:
        smoothing: from 0 to 1: the share of a uniform distribution in the target for each token;
            see `SmoothedCrossentropy`.
        padding: the token that stands for padding.
        reduction: as in `keras.losses.Loss`.
        name: name of the loss.

    Call:
        y_true: integers, (batch, steps); y_pred: logits, (batch, steps, vocabulary).

    Raises:
        ValueError: `smoothing` or `padding` is out of range.

    Example:
        >>> import numpy as np
        >>> from fastkeras.losses import SequenceCrossentropy
        >>> loss = SequenceCrossentropy()
        >>> float(loss(np.array([[1, 0]]), np.zeros((1, 2, 2))))  # log 2
        0.6931471824645996

    Source: Szegedy et al., 2016, "Rethinking the Inception architecture", section 7.
    """

    def __init__(
        self,
        smoothing: float = 0.0,
        padding: int = 0,
        reduction: str = "mean_with_sample_weight",
        name: str = "sequence_crossentropy",
    ) -> None:
        super().__init__(smoothing, reduction=reduction, name=name)
        self.padding = integer("padding", padding, 0)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> Tensor:
        """The loss of a batch, reduced; `sample_weight` is for sentences or tokens."""
        y_true = ops.convert_to_tensor(y_true)
        weights = ops.cast(y_true != self.padding, "float32")
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, "float32")
            if len(sample_weight.shape) == 1:
                sample_weight = sample_weight[:, None]
            weights = weights * sample_weight
        return super().__call__(ops.maximum(y_true, 0), y_pred, weights)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["from_logits"], config["sparse"]
        return {**config, "padding": self.padding}
