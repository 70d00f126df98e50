"""The door of the CRF functions: every argument is checked and normalised here, once.

Engines receive and trust
    emissions (batch, steps, num_tags), float32 or float64; transitions (num_tags, num_tags), or,
    where the door lets transitions vary, (batch, steps - 1, num_tags, num_tags);
    start_transitions and end_transitions (num_tags,), of the same dtype, never None;
    tags int32 (batch, steps), lengths int32 (batch,);
    mask bool (batch, steps) or None. With a mask, it alone tells the valid steps.
NumPy arguments are C-contiguous, and their tags are in range at valid steps and 0 elsewhere.
"""

import numpy as np

from fastkeras._engines import array_functions, family_of
from fastkeras.crf.low_rank import LowRank

FLOATS = ("float16", "bfloat16", "float32", "float64")


def chain_arguments(
    emissions,
    transitions,
    lengths,
    mask,
    start_transitions,
    end_transitions,
    tags=None,
    prefix="",
    may_vary=False,
    keep_factors=False,
):
    """Return (emissions, tags, transitions, lengths, mask, start, end), all checked.

    `prefix` is what the caller's names of the scores begin with; `may_vary` lets each step have
    transitions of its own; `keep_factors` leaves transitions of low rank as they are.
    """
    arrays = _NumPy if family_of(emissions) == "numpy" else _Tensors()
    emissions = arrays.floats(f"{prefix}emissions", emissions)
    _expect_rank(f"{prefix}emissions", emissions, 3, "(batch, steps, num_tags)")
    batch, steps, num_tags = emissions.shape
    if num_tags is None or num_tags < 1:
        raise ValueError(
            f"{prefix}emissions must have a known num_tags >= 1, got shape {_shape(emissions)}"
        )
    compute = "float64" if arrays.dtype(emissions) == "float64" else "float32"
    emissions = arrays.cast(emissions, compute)

    def scores(name, value, shape, meaning):
        if value is None:
            return arrays.zeros(shape, compute)
        name = prefix + name
        value = arrays.cast(arrays.floats(name, value), compute)
        _expect_shape(name, value, shape, meaning)
        return value

    if isinstance(transitions, LowRank):
        for side in transitions._fields:
            factor = getattr(transitions, side)
            shape = (num_tags, (*_shape(factor), None, None)[1])
            factor = scores(f"transitions.{side}", factor, shape, "(num_tags, rank)")
            transitions = transitions._replace(**{side: factor})
        left, right = transitions
        _expect_shape(f"{prefix}transitions.right", right, _shape(left), "that of the left factor")
        if not keep_factors:
            transitions = transitions.product()
    pairs, pairs_meaning = (num_tags, num_tags), "(num_tags, num_tags)"
    rank = rank_of(transitions)
    if may_vary and rank in (3, 4):
        pairs, pairs_meaning = (_one_less(steps), *pairs), "(steps - 1, num_tags, num_tags)"
    if may_vary and rank == 4:
        pairs, pairs_meaning = (batch, *pairs), f"(batch, {pairs_meaning[1:]}"
    if not isinstance(transitions, LowRank):
        transitions = scores("transitions", transitions, pairs, pairs_meaning)
    if may_vary and rank == 3:
        transitions = arrays.for_each_sequence(transitions, emissions)
    start = scores("start_transitions", start_transitions, (num_tags,), "(num_tags,)")
    end = scores("end_transitions", end_transitions, (num_tags,), "(num_tags,)")

    if mask is not None:
        mask = arrays.booleans("mask", mask)
        _expect_shape("mask", mask, (batch, steps), "(batch, steps)")
    if lengths is not None:
        lengths = arrays.integers("lengths", lengths)
        _expect_shape("lengths", lengths, (batch,), "(batch,)")
        arrays.check_lengths(lengths, steps)
    lengths, mask = arrays.valid_steps(emissions, lengths, mask)
    if tags is not None:
        tags = arrays.integers("tags", tags)
        _expect_shape("tags", tags, (batch, steps), "(batch, steps)")
        tags = arrays.check_tags(tags, lengths, mask, num_tags)
    return emissions, tags, transitions, lengths, mask, start, end


def rank_of(array):
    """The number of dimensions of an array, a tensor, or nested lists."""
    return len(array.shape) if hasattr(array, "shape") else np.ndim(array)


def like(result, emissions):
    """Cast what an engine computed back to the dtype of the emissions the caller gave.

    What is beyond float16, at 65,504, becomes infinite.
    """
    if family_of(emissions) == "numpy":
        dtype = emissions.dtype.name if hasattr(emissions, "dtype") else None
        if dtype not in FLOATS:
            return result  # lists have no dtype, integers are no scores
        if isinstance(result, np.ndarray):
            with np.errstate(over="ignore"):
                return result.astype(emissions.dtype, copy=False)
    else:
        dtype = _Tensors.dtype(emissions)
    return result if _Tensors.dtype(result) == dtype else _Tensors().cast(result, dtype)


def as_array(result, emissions):
    """What an engine of tensors computed from NumPy emissions, as a NumPy array."""
    if family_of(emissions) != "numpy" or isinstance(result, np.ndarray):
        return result
    return array_functions(result).convert_to_numpy(result)


class _NumPy:
    """NumPy's spelling of what the door needs."""

    @staticmethod
    def dtype(array):
        return array.dtype.name

    @staticmethod
    def floats(name, value):
        value = np.asarray(value)
        if value.dtype.kind in "iu":
            value = value.astype(np.float32)
        if value.dtype.name not in FLOATS:
            raise ValueError(f"{name} must be one of {', '.join(FLOATS)}, got {value.dtype.name}")
        return value

    @staticmethod
    def cast(array, dtype):
        return np.ascontiguousarray(array, dtype)

    @staticmethod
    def zeros(shape, dtype):
        return np.zeros(shape, dtype)

    @staticmethod
    def for_each_sequence(array, emissions):
        return np.broadcast_to(array, (len(emissions), *array.shape))

    @staticmethod
    def integers(name, value):
        value = np.asarray(value)
        if value.dtype.kind not in "iu":
            raise ValueError(f"{name} must be integers, got {value.dtype.name}")
        return value

    @staticmethod
    def booleans(name, value):
        value = np.asarray(value)
        if value.dtype.kind not in "biu":
            raise ValueError(f"{name} must be booleans or integers, got {value.dtype.name}")
        return np.ascontiguousarray(value != 0)

    @staticmethod
    def check_lengths(lengths, steps):
        if lengths.size and (lengths.min() < 0 or lengths.max() > steps):
            raise ValueError(
                f"lengths must be in 0..{steps} (the steps of emissions), "
                f"got values in {lengths.min()}..{lengths.max()}"
            )

    @staticmethod
    def valid_steps(emissions, lengths, mask):
        batch, steps, _ = emissions.shape
        if lengths is None:
            lengths = np.full(batch, steps)
        lengths = np.ascontiguousarray(lengths, np.int32)
        if mask is not None:
            mask = np.ascontiguousarray(mask & (np.arange(steps) < lengths[:, None]))
        return lengths, mask

    @staticmethod
    def check_tags(tags, lengths, mask, num_tags):
        valid = np.arange(tags.shape[1]) < lengths[:, None] if mask is None else mask
        wrong = valid & ((tags < 0) | (tags >= num_tags))
        if wrong.any():
            b, t = np.argwhere(wrong)[0]
            raise ValueError(
                f"tags must be in 0..{num_tags - 1} at valid steps, got {tags[b, t]} at [{b}, {t}]"
            )
        return np.ascontiguousarray(np.where(valid, tags, 0), np.int32)


class _Tensors:
    """The same in keras.ops. What depends on values is left to the engine: a graph cannot raise."""

    def __init__(self):
        from keras import ops

        self.ops = ops

    @staticmethod
    def dtype(tensor):
        import keras

        return keras.backend.standardize_dtype(tensor.dtype)

    def floats(self, name, value):
        value = self.ops.convert_to_tensor(value)
        dtype = self.dtype(value)
        if dtype not in FLOATS:
            raise ValueError(f"{name} must be one of {', '.join(FLOATS)}, got {dtype}")
        return value

    def cast(self, tensor, dtype):
        return self.ops.cast(tensor, dtype)

    def zeros(self, shape, dtype):
        return self.ops.zeros(shape, dtype)

    def for_each_sequence(self, tensor, emissions):
        shape = (self.ops.shape(emissions)[0], *self.ops.shape(tensor))
        return self.ops.broadcast_to(tensor, shape)

    def integers(self, name, value):
        value = self.ops.convert_to_tensor(value)
        dtype = self.dtype(value)
        if "int" not in dtype:
            raise ValueError(f"{name} must be integers, got {dtype}")
        return self.ops.cast(value, "int32")

    def booleans(self, name, value):
        value = self.ops.convert_to_tensor(value)
        dtype = self.dtype(value)
        if dtype != "bool" and "int" not in dtype:
            raise ValueError(f"{name} must be booleans or integers, got {dtype}")
        return self.ops.cast(value, "bool")

    def check_lengths(self, lengths, steps):
        pass

    def valid_steps(self, emissions, lengths, mask):
        ops = self.ops
        batch, steps, _ = ops.shape(emissions)
        if mask is not None and lengths is not None:
            mask = ops.logical_and(mask, ops.arange(steps, dtype="int32") < lengths[:, None])
        if lengths is None:
            lengths = ops.cast(ops.broadcast_to(steps, (batch,)), "int32")
        return lengths, mask

    def check_tags(self, tags, lengths, mask, num_tags):
        return tags


def _one_less(steps):
    return None if steps is None else max(steps - 1, 0)


def _shape(array):
    return tuple(array.shape)


def _expect_rank(name, array, rank, meaning):
    if len(array.shape) != rank:
        raise ValueError(f"{name} must have shape {meaning}, got {_shape(array)}")


def _expect_shape(name, array, expected, meaning):
    actual = _shape(array)
    fits = len(actual) == len(expected) and all(
        got is None or want is None or got == want
        for got, want in zip(actual, expected, strict=True)
    )
    if not fits:
        raise ValueError(f"{name} must have shape {meaning} = {tuple(expected)}, got {actual}")
