"""Losses of what counts: neither weight 0 nor mask lets through what stands there."""

from keras import ops

from fastkeras._keras_private import get_keras_mask, set_keras_mask
from fastkeras.training.masking import without_masked


def without_uncounted(y_true, y_pred, sample_weight):
    """Labels and scores, both with zeros where the weight is 0 or the mask of the scores is False.

    Keras multiplies the losses by weights and mask, and 0 · inf and 0 · NaN are NaN. And labels
    that only fill up, such as −100, are no wrong ones.

    Args:
        y_true: array with the axes of y_pred, or all but the last.
        y_pred: scores, shape (…, classes), with Keras' mask or without; it goes on to the result.
        sample_weight: array whose shape begins as that of the losses, (…), or None.
    """
    mask = get_keras_mask(y_pred)
    if mask is None and sample_weight is None:
        return y_true, y_pred
    y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
    counts = [] if mask is None else [mask]
    if sample_weight is not None:
        is_weighted = ops.convert_to_tensor(sample_weight) != 0
        if len(is_weighted.shape) == len(y_pred.shape) and is_weighted.shape[-1] == 1:
            is_weighted = is_weighted[..., 0]  # which Keras takes, too
        counts.append(is_weighted)
    for count in counts:
        y_true, y_pred = without_masked(y_true, count), without_masked(y_pred, count)
    if mask is not None:
        set_keras_mask(y_pred, mask)
    return y_true, y_pred
