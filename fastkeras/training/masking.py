"""Masked steps: made zeros, and left out of a softmax."""

from keras import ops

from fastkeras.crf.layers.output import at_least_float32


def without_masked(x, mask):
    """The tensor with zeros at its masked steps, so that nothing there is felt.

    To multiply what is there by a weight of 0 is not enough: 0 · NaN is NaN, in results and, where
    the weight is that of a gradient, in the gradients of everything.

    Args:
        x: any tensor of shape (batch, steps, …).
        mask: bool, shape (batch, steps); None for a tensor that is returned as it is.
    """
    if mask is None:
        return x
    mask = ops.cast(mask, "bool")
    for _ in range(len(x.shape) - len(mask.shape)):
        mask = mask[..., None]
    return ops.where(mask, x, ops.zeros((), x.dtype))


def normalized(scores, allowed=None):
    """Softmax of scores over the last axis in at least float32; 0 where nothing is allowed."""
    dtype, wide = scores.dtype, at_least_float32(scores)
    if allowed is not None:
        lowest = ops.cast(-1e30, wide.dtype)  # not −inf, whose softmax is NaN where all are
        wide = ops.where(allowed, wide, lowest)
    # Keras warns of the softmax of one number
    weights = ops.ones_like(wide) if wide.shape[-1] == 1 else ops.softmax(wide, axis=-1)
    return ops.cast(weights if allowed is None else ops.where(allowed, weights, 0), dtype)
