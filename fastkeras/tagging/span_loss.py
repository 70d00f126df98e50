"""The loss of layers that score spans, and the labels that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras._arrays import has_values
from fastkeras._keras_private import reduce_weighted_values
from fastkeras.crf.layers.ragged import filled
from fastkeras.tagging.multilabel import (
    check_same_shape,
    labels_of_positions,
    multilabel_categorical_crossentropy,
    whole_numbers,
)
from fastkeras.training.masking import without_masked

if TYPE_CHECKING:
    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
class SpanCrossentropy(keras.losses.Loss):
    """`multilabel_categorical_crossentropy` over all spans of a sequence, the mean over its types.

    y_pred are the scores of `GlobalPointer` or `EfficientGlobalPointer`. Labels are

    - spans, integers of shape (batch, n, 3): first step, last step and type of each, as
      `fastkeras.tagging.span_labels` makes them; rows with a number below 0 fill up; or
    - numbers from 0 to 1 of the shape of y_pred.

    A span that the scores forbid (one that touches a masked step) has an infinite loss and no
    gradient. `sample_weight` has shape (batch,).

    Args:
        reduction: as in `keras.losses.Loss`; "sum_over_batch_size" is the mean over sequences.
        name: name of the loss.

    Raises:
        ValueError: labels of another shape, spans beyond the steps or types of the scores, or
            numbers that are not whole, or not from 0 to 1. In a compiled graph, which cannot raise
            for a number, the loss of that sequence is NaN.

    Example:
        >>> import numpy as np
        >>> from fastkeras.losses import SpanCrossentropy
        >>> scores = np.full((1, 1, 3, 3), -20.0, "float32")
        >>> scores[0, 0, 0, 2] = 20.0
        >>> float(SpanCrossentropy()(np.array([[[0, 2, 0]]]), scores)) < 1e-6
        True

    Source: Su et al., 2022, "Global Pointer", arXiv 2208.03054, section 2.3.
    """

    def __init__(
        self, reduction: str = "sum_over_batch_size", name: str = "span_crossentropy"
    ) -> None:
        super().__init__(reduction=reduction, name=name)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> Tensor:
        """The loss of a batch, reduced."""
        # not the method of keras.losses.Loss, which casts positions to the dtype of floats
        with keras.name_scope(self.name):
            if sample_weight is not None:
                sample_weight = ops.convert_to_tensor(sample_weight)
                if any(size not in (1, None) for size in sample_weight.shape[1:]):
                    raise ValueError(
                        "sample_weight must have shape (batch,), one weight a sequence, got "
                        f"{tuple(sample_weight.shape)}"
                    )
                sample_weight = ops.reshape(sample_weight, (-1,))
                y_pred = without_masked(ops.convert_to_tensor(y_pred), sample_weight != 0)
            losses = self.call(y_true, y_pred)
            if sample_weight is not None:  # weight 0 means no loss, but 0 · inf is NaN
                losses = ops.where(sample_weight == 0, 0, losses)
            return reduce_weighted_values(
                losses, sample_weight=sample_weight, reduction=self.reduction, dtype=losses.dtype
            )

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Losses of shape (batch,)."""
        labels, is_right = labels_of_spans(y_true, y_pred)
        y_pred = ops.convert_to_tensor(y_pred)
        batch, kinds, steps, _ = ops.shape(y_pred)
        shape = (batch, kinds, steps * steps)  # no −1, which says nothing where one of them is 0
        losses = multilabel_categorical_crossentropy(
            ops.reshape(labels, shape), ops.reshape(y_pred, shape)
        )
        return ops.where(is_right, ops.mean(losses, axis=-1), float("nan"))


def labels_of_spans(y_true, y_pred):
    """Labels of the shape of the scores, and whether all are in range, shape (batch,).

    Args:
        y_true, y_pred: as `SpanCrossentropy` gets them.
    """
    y_true = ops.convert_to_tensor(filled(y_true, -1))
    y_pred = ops.convert_to_tensor(y_pred)
    shape = tuple(y_true.shape)
    if len(y_pred.shape) != 4:
        raise ValueError(
            "y_pred must be scores of spans, of shape (batch, num_types, steps, steps), got "
            f"{tuple(y_pred.shape)}"
        )
    if len(shape) == 4:
        check_same_shape(y_true, y_pred)
        return y_true, ops.ones((ops.shape(y_pred)[0],), "bool")
    if len(shape) != 3 or shape[-1] != 3:
        raise ValueError(
            "y_true must be spans, integers of shape (batch, n, 3), or labels of the shape of "
            f"y_pred, {tuple(y_pred.shape)}, got {shape}"
        )
    batch, kinds, steps, _ = ops.shape(y_pred)
    spans = whole_numbers(y_true, "spans")
    start, end, kind = spans[..., 0], spans[..., 1], spans[..., 2]
    given = ops.all(spans >= 0, axis=-1)
    wrong = given & ((kind >= kinds) | (end >= steps) | (start > end))
    if has_values(wrong) and ops.convert_to_numpy(wrong).any():
        first = ops.convert_to_numpy(spans)[ops.convert_to_numpy(wrong)][0].tolist()
        raise ValueError(
            "spans must be [first step, last step, type] with first <= last, last < "
            f"{steps} (the steps of the scores) and type < {kinds}, got {first}"
        )
    positions = ops.where(given & ~wrong, (kind * steps + start) * steps + end, -1)
    flat = ops.reshape(y_pred, (batch, kinds * steps * steps))
    labels, _ = labels_of_positions(positions, flat, "spans")
    return ops.reshape(labels, ops.shape(y_pred)), ~ops.any(wrong, axis=-1)
