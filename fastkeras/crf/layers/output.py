"""What loss and metrics need besides the emissions: the layer, the mask, labels, weights.

A CRF layer attaches itself to its output tensor, as Keras attaches masks. So a loss that was
restored from a file, and has no reference to a layer, finds the right one, and so does the loss of
a cloned model.
"""

from keras import backend, ops

from fastkeras._arrays import as_int32, has_values
from fastkeras._keras_private import (
    get_keras_mask,
    get_tensor_attr,
    set_keras_mask,
    set_tensor_attr,
)
from fastkeras.crf.arguments import dense
from fastkeras.crf.layers.ragged import filled

MARK = "_fastkeras_crf"
NO_TAG = 2**31 - 1  # out of range for every layer; −1 may be inside of a segment, or ignored


def mark(emissions, layer, mask, transitions=None):
    """Attach the layer whose output this is, mask and transitions of the call, as Keras does."""
    set_tensor_attr(emissions, MARK, (layer, mask is not None, transitions))
    if mask is not None:
        set_keras_mask(emissions, mask)


def marked_layer(y_pred):
    """The CRF layer whose output y_pred is, or None."""
    return (get_tensor_attr(y_pred, MARK) or (None,))[0]


def layer_of(y_pred, made_from=None):
    """The CRF layer whose output y_pred is, or else the layer that the loss or metric was given."""
    layer, is_masked, _ = get_tensor_attr(y_pred, MARK) or (None, False, None)
    lost_mask = is_masked and get_keras_mask(y_pred) is None
    if backend.backend() == "torch" and (layer is None or lost_mask):
        raise ValueError(
            "y_pred must be the output of a fastkeras CRF layer, unchanged; torch.compile loses "
            "that, and the mask: compile the model with jit_compile=False"
        )
    if layer is None:
        layer = made_from
    if layer is None:
        raise ValueError(
            "y_pred must be the output of a fastkeras CRF layer, unchanged; or else take loss and "
            "metric from the layer: crf.loss, crf.accuracy"
        )
    if made_from is not None and made_from.num_tags not in (None, layer.num_tags):
        raise ValueError(
            f"y_pred is the output of the layer {layer.name!r} with {layer.num_tags} tags, but "
            f"loss or metric was made from {made_from.name!r} with {made_from.num_tags} tags"
        )
    return layer


def mask_of(y_pred):
    """The Keras mask, bool (batch, steps), or None."""
    return get_keras_mask(y_pred)


def transitions_of(y_pred):
    """The transitions that the layer was called with, or None."""
    return (get_tensor_attr(y_pred, MARK) or (None,))[-1]


def integer_tags(y_true, y_pred, mask=None):
    """Labels as int32 (batch, steps), from integers (batch, steps[, 1]) or one-hot rows.

    A row that is not one-hot is refused at a step that counts, since taking its largest element
    would misread it. A graph, which cannot raise, gets a tag out of range instead.
    """
    y_true = filled(y_true, NO_TAG)  # an error at a step that counts
    y_true = ops.convert_to_tensor(dense("y_true", y_true))
    num_tags = y_pred.shape[-1]
    rank = len(y_true.shape)
    if rank == 3 and y_true.shape[-1] == num_tags:
        soft = ops.any((y_true != 0) & (y_true != 1), axis=-1)
        if num_tags > 1:  # else it may also be the number of the tag, 0
            soft = soft | (ops.sum(ops.cast(y_true != 0, "int32"), axis=-1) != 1)
        counts = soft if mask is None else soft & ops.cast(mask, "bool")
        if has_values(counts) and ops.convert_to_numpy(counts).any():
            raise ValueError(
                "y_true has soft labels, rows that are not one 1 and else 0; it must be one tag "
                "a step, as an integer or one-hot. For a distribution over sequences there is "
                "fastkeras.crf.cross_entropy, for tags left open log_likelihood_of_sets"
            )
        return ops.where(soft, NO_TAG, ops.cast(ops.argmax(y_true, axis=-1), "int32"))
    if rank == 3 and y_true.shape[-1] == 1:
        y_true = y_true[..., 0]
    elif rank != 2:
        raise ValueError(
            "y_true must be integer tags of shape (batch, steps) or (batch, steps, 1), or one-hot "
            f"of shape (batch, steps, {num_tags}), got {tuple(y_true.shape)}"
        )
    if not backend.is_float_dtype(backend.standardize_dtype(y_true.dtype)):
        return as_int32(y_true)
    y_true = at_least_float32(y_true)
    whole = (y_true == ops.floor(y_true)) & (ops.abs(y_true) < 2.0**31)
    counts = ~whole if mask is None else ~whole & ops.cast(mask, "bool")
    if has_values(counts) and ops.convert_to_numpy(counts).any():
        raise ValueError(
            f"y_true must be integer tags, which must be in 0..{num_tags - 1} at valid steps, got "
            "numbers that are not whole, or beyond int32"
        )
    return ops.where(whole, ops.cast(ops.where(whole, y_true, 0), "int32"), NO_TAG)


def steps_that_count(tags, mask, ignore_class):
    """The mask without the steps whose label is `ignore_class`; None for all steps."""
    if ignore_class is None:
        return mask
    labelled = tags != ignore_class
    return labelled if mask is None else ops.cast(mask, "bool") & labelled


def sequence_and_step_weights(sample_weight, y_pred):
    """Weights of the sequences, (batch,), and of the steps, (batch, steps); each may be None."""
    if sample_weight is None:
        return None, None
    sample_weight = ops.convert_to_tensor(filled(sample_weight, 0))
    shape, steps = tuple(sample_weight.shape), y_pred.shape[1]
    if len(shape) == 3 and shape[2] == 1:
        sample_weight, shape = sample_weight[..., 0], shape[:2]
    if len(shape) == 1:
        return sample_weight, None
    if len(shape) == 2 and shape[1] == 1 and steps != 1:
        return sample_weight[:, 0], None
    if len(shape) == 2 and (None in (shape[1], steps) or shape[1] == steps):
        return None, sample_weight
    raise ValueError(
        f"sample_weight must have shape (batch,), one weight a sequence, or (batch, {steps}), one "
        f"a step, got {shape}"
    )


def at_least_float32(emissions):
    """Half precision is enough for emissions, not for the log-likelihood of a sequence."""
    half = backend.standardize_dtype(emissions.dtype) in ("float16", "bfloat16")
    return ops.cast(emissions, "float32") if half else emissions
