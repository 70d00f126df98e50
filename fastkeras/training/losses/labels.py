"""Labels as positions of classes."""

from keras import backend, ops

from fastkeras._arrays import has_values


def positions(labels, classes):
    """Whole labels 0 ≤ y < classes as int32; others become `classes`, the position of no class.

    Raises ValueError for these where they have values. In a graph, which cannot, they are out of
    range for the lookup that follows: on TensorFlow that raises, on JAX it gives NaN.
    """
    valid = ops.logical_and(labels >= 0, labels < classes)
    if backend.is_float_dtype(backend.standardize_dtype(labels.dtype)):
        valid = ops.logical_and(valid, labels == ops.floor(labels))  # a cast would cut off 1.5
    if has_values(valid) and not bool(ops.all(valid)):
        wrong = ops.convert_to_numpy(labels)[~ops.convert_to_numpy(valid)]
        raise ValueError(f"labels must be in 0..{classes - 1}, got {wrong[0]}")
    return ops.where(valid, ops.cast(labels, "int32"), classes)
