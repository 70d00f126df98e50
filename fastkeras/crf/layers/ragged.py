"""Ragged tensors of TensorFlow as what layers compute with: padded tensors and masks."""


def is_ragged(value):
    """Whether a value is a tf.RaggedTensor; TensorFlow need not be there."""
    return type(value).__name__ == "RaggedTensor"


def padded(inputs, mask=None):
    """The inputs of a layer and their mask, padded if they are ragged.

    Args:
        inputs: any tensor; or a tf.RaggedTensor whose second axis is that of the steps.
        mask: bool (batch, steps), ragged like the inputs or not, or None.

    Returns:
        The same, or a tensor that is 0 after the end of each row, and a mask that is False there.
    """
    if not is_ragged(inputs):
        return inputs, mask
    import tensorflow as tf

    lengths, inputs = inputs.row_lengths(), inputs.to_tensor()
    inside = tf.sequence_mask(lengths, tf.shape(inputs)[1])
    if mask is not None:
        inside = inside & (mask.to_tensor() if is_ragged(mask) else mask)
    return inputs, inside


def filled(value, fill):
    """A tensor that has `fill` after the end of each row of a tf.RaggedTensor."""
    if not is_ragged(value):
        return value
    if value.dtype.is_integer and value.dtype.size < 4:  # too narrow for some of what fills
        import tensorflow as tf

        value = tf.cast(value, "int32")
    return value.to_tensor(default_value=fill)
