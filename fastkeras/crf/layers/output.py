"""What loss and metric need to know besides the emissions: the layer, the mask, labels, weights.

A CRF layer marks its output tensor with itself, in the way Keras attaches masks. So a loss restored
from a file, which knows no layer, finds the right one, and so does the loss of a cloned model.
"""

from keras import backend, ops
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.tensor_attributes import get_tensor_attr, set_tensor_attr

MARK = "_fastkeras_crf"


def mark(emissions, layer, mask):
    """Remember the layer whose output this is, and give it the mask of the call, as Keras does."""
    set_tensor_attr(emissions, MARK, (layer, mask is not None))
    if mask is not None:
        set_keras_mask(emissions, mask)


def layer_of(y_pred, made_from=None):
    """The CRF layer whose output y_pred is, or else the one that loss or metric was made from."""
    layer, is_masked = get_tensor_attr(y_pred, MARK) or (None, False)
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


def integer_tags(y_true, y_pred):
    """Labels as int32 (batch, steps), from integers (batch, steps[, 1]) or one-hot rows."""
    y_true = ops.convert_to_tensor(y_true)
    num_tags = y_pred.shape[-1]
    rank = len(y_true.shape)
    if rank == 3 and y_true.shape[-1] == num_tags:
        y_true = ops.argmax(y_true, axis=-1)
    elif rank == 3 and y_true.shape[-1] == 1:
        y_true = y_true[..., 0]
    elif rank != 2:
        raise ValueError(
            "y_true must be integer tags of shape (batch, steps) or (batch, steps, 1), or one-hot "
            f"of shape (batch, steps, {num_tags}), got {tuple(y_true.shape)}"
        )
    return ops.cast(y_true, "int32")


def sequence_weights(sample_weight):
    """Weights of shape (batch,), or None."""
    if sample_weight is None:
        return None
    sample_weight = ops.convert_to_tensor(sample_weight)
    if len(sample_weight.shape) == 2 and sample_weight.shape[1] == 1:
        sample_weight = sample_weight[:, 0]
    if len(sample_weight.shape) != 1:
        raise ValueError(
            "sample_weight must have shape (batch,), one weight a sequence, got "
            f"{tuple(sample_weight.shape)}: a CRF gives the sequence a probability, not the step; "
            "leave steps out by the mask"
        )
    return sample_weight


def at_least_float32(emissions):
    """Half precision is enough for emissions, not for the log-likelihood of a sequence."""
    half = backend.standardize_dtype(emissions.dtype) in ("float16", "bfloat16")
    return ops.cast(emissions, "float32") if half else emissions
