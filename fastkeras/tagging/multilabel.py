"""Softmax cross-entropy for several labels at once, with 0 as the threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import backend, ops

from fastkeras._arrays import as_int32, has_values
from fastkeras._keras_private import get_keras_mask, reduce_weighted_values
from fastkeras.crf.layers.output import at_least_float32
from fastkeras.training.arguments import flag
from fastkeras.training.losses.counted import without_uncounted

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor

LARGEST = 2.0**31 - 128  # of the float32 numbers, the largest that an int32 holds


def multilabel_categorical_crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """log(1 + Σ_i (1 − y_i) e^(s_i)) + log(1 + Σ_i y_i e^(−s_i)).

    The scores of labels should be above 0, those of the others below. For large scores it is the
    larger of 0 and how far the highest wrong score is above 0, and likewise for right ones below 0;
    so a few labels among very many others need no weights. There is one label i for each entry of
    the last axis; the 1 in each logarithm is the score 0, the threshold.

    Args:
        y_true: shape (…, classes), 1 for labels and 0 for others, or anything between for soft
            labels.
        y_pred: float, shape (…, classes): scores, without a sigmoid or softmax. −inf forbids a
            class.

    Returns:
        Losses, shape (…), at least float32; never negative. +inf, without gradients, where
        a label is forbidden, or another class scores +inf.

    Raises:
        ValueError: y_true has another shape than y_pred, or a number that is not from 0 to 1. In a
            compiled graph, which cannot raise for a number, the loss is NaN.

    Example:
        >>> import numpy as np
        >>> from fastkeras.tagging import multilabel_categorical_crossentropy
        >>> scores = np.array([[-9.0, 4.0, -9.0, 6.0]])
        >>> loss = multilabel_categorical_crossentropy(np.array([[0, 1, 0, 1]]), scores)
        >>> loss.numpy().round(3)
        array([0.021])

    Source: Su et al., 2022, "ZLPR: a novel loss for multi-label classification", arXiv 2208.02955;
        https://kexue.fm/archives/7359, and for soft labels https://kexue.fm/archives/9064.
    """
    y_pred = at_least_float32(ops.convert_to_tensor(y_pred))
    y_true = ops.convert_to_tensor(y_true)
    check_same_shape(y_true, y_pred)
    is_right = _are_shares(y_true)
    y_true = ops.cast(y_true, y_pred.dtype)
    forbidden = (y_true > 0) & (y_pred == float("-inf"))
    impossible = forbidden | (y_true < 1) & (y_pred == float("inf"))
    scores = ops.where(impossible, 0, y_pred)
    losses = _log_1_plus_sum(scores, 1 - y_true) + _log_1_plus_sum(-scores, y_true)
    possible = ~ops.any(impossible, axis=-1)
    losses = ops.where(possible, losses, float("inf"))
    return losses if is_right is None else ops.where(is_right, losses, float("nan"))


def sparse_multilabel_categorical_crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """`multilabel_categorical_crossentropy` of the positions of the labels.

    All other classes are negative. Their sum is computed as it is, not as the difference of the
    sums of all and of the labels, so that it keeps its digits where labels outweigh all others.

    Args:
        y_true: integers, shape (…, n): up to n labels in 0..classes − 1, in any order; entries
            below 0 fill up.
        y_pred: as in `multilabel_categorical_crossentropy`.

    Returns:
        As `multilabel_categorical_crossentropy`.

    Raises:
        ValueError: a label is not below the number of classes, or no whole number; or there is
            another shape. In a compiled graph, which cannot raise for a label, the loss is NaN.

    Example:
        >>> import numpy as np
        >>> from fastkeras.tagging import sparse_multilabel_categorical_crossentropy
        >>> scores = np.array([[-9.0, 4.0, -9.0, 6.0]])
        >>> loss = sparse_multilabel_categorical_crossentropy(np.array([[1, 3, -1]]), scores)
        >>> loss.numpy().round(3)
        array([0.021])

    Source: https://kexue.fm/archives/8888, but for the sum over the negatives.
    """
    y_pred = ops.convert_to_tensor(y_pred)
    positions = whole_numbers(y_true, "labels")
    shape = tuple(positions.shape)
    if len(shape) != len(y_pred.shape) or not _are_equal(shape[:-1], y_pred.shape[:-1]):
        raise ValueError(
            "y_true must be positions of labels, of the shape of y_pred but for the last axis, "
            f"{(*y_pred.shape[:-1], 'n')}, got {shape}"
        )
    labels, is_right = labels_of_positions(positions, y_pred, "labels")
    losses = multilabel_categorical_crossentropy(labels, y_pred)
    return ops.where(is_right, losses, float("nan"))


def check_same_shape(y_true, y_pred):
    """Raise ValueError where labels would be broadcast, or read in another order of axes."""
    if not _are_equal(y_true.shape, y_pred.shape):
        raise ValueError(
            f"y_true must have the shape of y_pred, {tuple(y_pred.shape)}, got "
            f"{tuple(y_true.shape)}"
        )


def _are_equal(shape, other):
    """Whether two shapes are the same, as far as they are known."""
    return len(shape) == len(other) and all(
        a == b or a is None or b is None for a, b in zip(shape, other, strict=True)
    )


def _are_shares(y_true):
    """Whether all labels of a row are from 0 to 1; None if they are booleans."""
    if backend.standardize_dtype(y_true.dtype) == "bool":
        return None
    is_share = (y_true >= 0) & (y_true <= 1)
    if has_values(is_share) and not ops.convert_to_numpy(is_share).all():
        wrong = ops.convert_to_numpy(y_true)[~ops.convert_to_numpy(is_share)][0]
        raise ValueError(f"y_true must be numbers from 0 to 1, got {wrong}")
    return ops.all(is_share, axis=-1)


def whole_numbers(given, name):
    """As int32; in a graph, which cannot raise, what is none becomes the largest, out of range."""
    if isinstance(given, np.ndarray) and given.dtype.kind in "iu":
        given = np.clip(given, -(2**31), 2**31 - 1)  # JAX would wrap them
    given = ops.convert_to_tensor(given)
    if not backend.is_float_dtype(backend.standardize_dtype(given.dtype)):
        return as_int32(given)
    is_whole = given == ops.floor(given)
    if has_values(is_whole) and not ops.convert_to_numpy(is_whole).all():
        wrong = ops.convert_to_numpy(given)[~ops.convert_to_numpy(is_whole)][0]
        raise ValueError(f"{name} must be whole numbers, got {wrong}")
    return ops.cast(ops.clip(ops.where(is_whole, given, LARGEST), -LARGEST, LARGEST), "int32")


def labels_of_positions(positions, y_pred, name):
    """Bool of the shape of y_pred, true at the positions; and whether all are in range, shape (…).

    Args:
        positions: int32, shape (…, n); those below 0 are left out.
        y_pred: shape (…, classes).
        name: what the positions are, for the error message.
    """
    classes = ops.shape(y_pred)[-1]
    # one more, which is left out: where there are none, there would be nothing to reshape
    one_more = [[0, 0]] * (len(positions.shape) - 1) + [[0, 1]]
    positions = ops.pad(positions, one_more, constant_values=-1)
    too_large = positions >= classes
    if has_values(too_large) and ops.convert_to_numpy(too_large).any():
        largest = int(ops.convert_to_numpy(positions).max())
        raise ValueError(f"{name} must be below {classes}, the number of classes, got {largest}")
    # every row has one place more, for what is left out
    places = ops.where((positions < 0) | too_large, classes, positions)
    places = ops.reshape(places, (-1, ops.shape(positions)[-1]))
    rows = ops.arange(ops.shape(places)[0], dtype="int32")[:, None]
    places = ops.stack([rows + ops.zeros_like(places), places], axis=-1)
    places = ops.reshape(places, (-1, 2))
    labels = ops.zeros((ops.shape(rows)[0], classes + 1), "bool")
    labels = ops.scatter_update(labels, places, ops.ones_like(places[:, 0], dtype="bool"))
    labels = ops.reshape(labels[:, :classes], ops.shape(y_pred))
    return labels, ~ops.any(too_large, axis=-1)


@keras.saving.register_keras_serializable("fastkeras")
class MultilabelCategoricalCrossentropy(keras.losses.Loss):
    """`multilabel_categorical_crossentropy` as a loss for `compile`.

    What scores above 0 is predicted. The mask of y_pred, and `sample_weight`, apply to the losses,
    of shape (…); where the mask is False or the weight 0, neither labels nor scores are looked at.

    Args:
        sparse: whether y_true are the positions of the labels, integers of shape (…, n), filled up
            with numbers below 0; else it has the shape of y_pred.
        reduction: as in `keras.losses.Loss`.
        name: name of the loss.

    Raises:
        ValueError: `sparse` is neither True nor False; and as the functions.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.losses import MultilabelCategoricalCrossentropy
        >>> model = keras.Sequential([keras.layers.Dense(1000)])
        >>> model.compile("adam", MultilabelCategoricalCrossentropy(sparse=True))
        >>> history = model.fit(np.ones((2, 8)), np.array([[3, 999], [7, -1]]), verbose=0)

    Source: Su et al., 2022, arXiv 2208.02955.
    """

    def __init__(
        self,
        sparse: bool = False,
        reduction: str = "sum_over_batch_size",
        name: str = "multilabel_categorical_crossentropy",
    ) -> None:
        super().__init__(reduction=reduction, name=name)
        self.sparse = flag("sparse", sparse)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> Tensor:
        """The loss of a batch, reduced."""
        # not the method of keras.losses.Loss, which casts positions to the dtype of floats
        with keras.name_scope(self.name):
            if self.sparse:
                y_true = whole_numbers(y_true, "labels")
            y_true, y_pred = without_uncounted(y_true, y_pred, sample_weight)
            losses = self.call(y_true, y_pred)
            return reduce_weighted_values(
                losses,
                sample_weight=sample_weight,
                mask=get_keras_mask(y_pred),
                reduction=self.reduction,
                dtype=losses.dtype,
            )

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Losses of shape (…)."""
        if self.sparse:
            return sparse_multilabel_categorical_crossentropy(y_true, y_pred)
        return multilabel_categorical_crossentropy(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {**super().get_config(), "sparse": self.sparse}


def _log_1_plus_sum(scores, weights):
    """log(1 + Σ weights · exp(scores)) over the last axis."""
    counts = weights > 0
    scores = ops.where(counts, scores + ops.log(ops.where(counts, weights, 1)), float("-inf"))
    peak = ops.stop_gradient(ops.maximum(ops.max(scores, axis=-1, initial=0.0), 0))
    rest = ops.sum(ops.exp(scores - peak[..., None]), axis=-1)
    return peak + ops.log1p(ops.expm1(-peak) + rest)
