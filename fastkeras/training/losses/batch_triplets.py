"""Triplet losses whose triplets are found in the batch, from labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from fastkeras.training.arguments import number, one_of

if TYPE_CHECKING:
    from fastkeras.typing import Tensor

MININGS = ("hard", "semi_hard", "all")
DISTANCES = ("euclidean", "squared_euclidean", "cosine")


@keras.saving.register_keras_serializable("fastkeras")
class BatchTripletLoss(keras.losses.Loss):
    """max(0, margin + d(anchor, positive) − d(anchor, negative)), with triplets from the batch.

    Each example is an anchor. Positives are the other examples with its label, negatives those with
    another one. The triplets of an anchor are

    - "hard": its farthest positive and its nearest negative;
    - "semi_hard": each positive, with the nearest negative that is farther than it; or, if there is
      none, with the farthest negative;
    - "all": all.

    The loss is the mean over all triplets, 0 if there are none. A batch should have several
    examples of each label. Memory: batch² distances; for "semi_hard" and "all" batch³.

    Args:
        mining: one of these.
        margin: at least 0; None for log(1 + exp(d_positive − d_negative)), which has no margin
            beyond which it is flat.
        distance: "euclidean", "squared_euclidean" or "cosine" (1 − cosine).
        reduction: as in `keras.losses.Loss`. Losses of anchors are scaled so that their mean over
            the batch is that over the triplets.
        name: name of the loss.

    Raises:
        ValueError: an argument out of range, or labels or embeddings of another shape.

    Example:
        >>> import numpy as np
        >>> from fastkeras.losses import BatchTripletLoss
        >>> embeddings = np.array([[0.0], [1.0], [3.0], [3.5]], "float32")
        >>> loss = BatchTripletLoss("hard", margin=2.0)
        >>> float(loss(np.array([0, 0, 1, 1]), embeddings))  # 0, 1, 0.5 and 0
        0.375

    Source: Schroff, Kalenichenko & Philbin, 2015, "FaceNet", section 3.2; Hermans, Beyer & Leibe,
        2017, "In defense of the triplet loss", arXiv 1703.07737.
    """

    def __init__(
        self,
        mining: str = "semi_hard",
        margin: float | None = 1.0,
        distance: str = "euclidean",
        reduction: str = "sum_over_batch_size",
        name: str = "batch_triplet_loss",
    ) -> None:
        super().__init__(reduction=reduction, name=name)
        one_of("mining", mining, MININGS)
        one_of("distance", distance, DISTANCES)
        if margin is not None:
            number("margin", margin, "at least 0, or None", lambda margin: margin >= 0)
        self.mining, self.margin, self.distance = mining, margin, distance

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> Tensor:
        """The loss of a batch, reduced."""
        y_true = ops.convert_to_tensor(y_true)
        if len(y_true.shape) == 2 and y_true.shape[1] == 1:
            y_true = y_true[:, 0]
        if len(y_true.shape) != 1 or len(y_pred.shape) != 2:
            raise ValueError(
                "y_true must be labels of shape (batch,) or (batch, 1), and y_pred embeddings of "
                f"shape (batch, size), got {tuple(y_true.shape)} and {tuple(y_pred.shape)}"
            )
        # compared here, since Keras casts labels to floats: 257 is 256 in bfloat16
        same = ops.cast(y_true[:, None] == y_true, "float32")
        return super().__call__(same, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Losses of anchors, (batch,); y_true is 1 where two labels are the same."""
        half = keras.backend.standardize_dtype(y_pred.dtype) in ("float16", "bfloat16")
        d = self._distances(ops.cast(y_pred, "float32") if half else ops.convert_to_tensor(y_pred))
        same = ops.cast(y_true, "float32") > 0.5
        itself = ops.cast(ops.eye(ops.shape(d)[0]), "bool")
        positive, negative = same & ~itself, ~same
        if self.mining == "hard":
            far = ops.max(ops.where(positive, d, 0), axis=1, initial=0)
            near = _smallest(d, negative)
            counts = ops.any(positive, axis=1) & ops.any(negative, axis=1)
            return _mean(self._loss(far, near), counts)
        if self.mining == "semi_hard":
            farther = negative[:, None] & (d[:, None] > d[:, :, None])
            beyond = _smallest(ops.broadcast_to(d[:, None], ops.shape(farther)), farther)
            farthest = ops.max(ops.where(negative, d, 0), axis=1, keepdims=True, initial=0)
            other = ops.where(ops.any(farther, axis=2), beyond, farthest)
            counts = positive & ops.any(negative, axis=1)[:, None]
            return _mean(self._loss(d, other), counts)
        counts = positive[:, :, None] & negative[:, None]
        return _mean(self._loss(d[:, :, None], d[:, None]), counts)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        own = {"mining": self.mining, "margin": self.margin, "distance": self.distance}
        return {**super().get_config(), **own}

    def _loss(self, positive, negative):
        if self.margin is None:
            return ops.softplus(positive - negative)
        return ops.relu(self.margin + positive - negative)

    def _distances(self, x):
        """All distances, (batch, batch)."""
        if self.distance == "cosine":
            norm = ops.sum(x * x, axis=1, keepdims=True)
            x = x * ops.rsqrt(ops.maximum(norm, 1e-12))
            return 1 - ops.matmul(x, ops.transpose(x))
        # |a|² − 2ab + |b|² keeps most digits near the mean
        x = x - ops.stop_gradient(ops.mean(x, axis=0, keepdims=True))
        square = ops.sum(x * x, axis=1)
        square = square[:, None] + square - 2 * ops.matmul(x, ops.transpose(x))
        above = square > 0
        square = ops.where(above, square, 0)
        if self.distance == "squared_euclidean":
            return square
        # the root has no derivative at 0
        return ops.where(above, ops.sqrt(ops.where(above, square, 1)), 0)


def _smallest(values, where):
    """The smallest along the last axis of those that count; 0 if there are none."""
    values = ops.where(where, values, float("inf"))
    smallest = ops.min(values, axis=-1, initial=float("inf"))  # also in an empty batch
    return ops.where(ops.any(where, axis=-1), smallest, 0)


def _mean(losses, counts):
    """Losses of anchors, whose mean over the batch is that of the losses that count."""
    axes = tuple(range(1, len(counts.shape)))
    number = ops.sum(ops.cast(counts, losses.dtype))
    losses = ops.where(counts, losses, 0)
    of_anchors = ops.sum(losses, axis=axes) if axes else losses
    batch = ops.cast(ops.shape(counts)[0], losses.dtype)
    return of_anchors * (batch / ops.maximum(number, 1))
