"""The door of the CRF functions: checks every argument, once, and makes a `Chain` of them.

Values are checked for NumPy arrays only: a graph of tensors cannot raise, so there the engine has
to deal with them. NumPy tags come out in range at valid steps and 0 elsewhere.
"""

import numpy as np

from fastkeras._arrays import Spoken, array_functions, as_int32, contiguous, dtype_of, family_of
from fastkeras._engines import engine_of_family
from fastkeras.crf.chain import Chain, LowRank, check_lengths, check_tags
from fastkeras.training.arguments import flag

try:  # NumPy arrays that need no conversion are checked in C++, in a tenth of the time
    from fastkeras._core import crf_ready_chain, crf_ready_tags
except ImportError:  # not built

    def crf_ready_chain(*arguments):
        """Leave the check to Python."""
        return None

    def crf_ready_tags(*arguments):
        """Leave the check to Python."""
        return None


FLOATS = ("float16", "bfloat16", "float32", "float64")


def chain_of(
    emissions,
    transitions,
    lengths=None,
    mask=None,
    start_transitions=None,
    end_transitions=None,
    *,
    prefix="",
    may_vary=True,
    keep_factors=False,
):
    """Check the arguments and return the `Chain`.

    `prefix` goes before the names of the scores in error messages; `may_vary` lets each step have
    transitions of its own; `keep_factors` does not multiply out transitions of low rank.
    """
    if type(emissions) is np.ndarray:  # torch.compile cannot trace the call
        ready = crf_ready_chain(
            emissions, transitions, lengths, mask, start_transitions, end_transitions
        )
        if ready is not None and (may_vary or ready[1].ndim == 2):
            return Chain._make(ready)
    array = array_functions(emissions)
    emissions = _floats(array, f"{prefix}emissions", emissions)
    if len(emissions.shape) != 3:
        raise ValueError(
            f"{prefix}emissions must have shape (batch, steps, num_tags), got {_shape(emissions)}"
        )
    batch, steps, num_tags = emissions.shape
    if num_tags is None or num_tags < 1:
        raise ValueError(
            f"{prefix}emissions must have a known num_tags >= 1, got shape {_shape(emissions)}"
        )
    dtype = "float64" if dtype_of(emissions) == "float64" else "float32"
    emissions = contiguous(array.cast(emissions, dtype))

    def scores(name, value, shape, meaning):
        if value is None:
            return array.zeros(shape, dtype)
        value = _floats(array, prefix + name, value)
        _expect_shape(prefix + name, value, shape, meaning)
        return contiguous(array.cast(value, dtype))

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
    if may_vary and rank == 3:  # the same for all sequences
        transitions = for_each_step(transitions, emissions)
    start = scores("start_transitions", start_transitions, (num_tags,), "(num_tags,)")
    end = scores("end_transitions", end_transitions, (num_tags,), "(num_tags,)")
    lengths, mask = _valid_steps(array, emissions, lengths, mask)
    return Chain(emissions, transitions, lengths, mask, start, end)


def for_each_step(transitions, emissions):
    """Transitions (num_tags, num_tags) or (steps - 1, ·, ·) as (batch, steps - 1, ·, ·)."""
    array = array_functions(emissions)
    batch, steps, num_tags = array.shape(emissions)
    into = array.shape(transitions)[0] if rank_of(transitions) == 3 else _one_less(steps)
    return contiguous(array.broadcast_to(transitions, (batch, into, num_tags, num_tags)))


def engine_of(chain, engine=None, needs=None, what=None, checkpoint=False):
    """The functions of the engine to use; with `checkpoint` those that keep few rows.

    `needs` and `what` are as in `_engines.engine_for`; for transitions that vary they are set here.
    """
    if needs is None and chain.varies:
        needs, what = "VARYING_TRANSITIONS", "transitions that vary with the step"
    functions = engine_of_family("crf", chain.family, engine, needs, what)
    if checkpoint is False:  # the quick way, since every call comes here
        return functions
    flag("checkpoint", checkpoint)
    return getattr(functions, "checkpointed", functions)


def tags_of(chain, tags, name="tags"):
    """The checked tags, int32 (batch, steps)."""
    if tags is None:
        raise ValueError(f"{name} must be integers of shape (batch, steps), got None")
    if type(tags) is np.ndarray and type(chain.emissions) is np.ndarray:
        ready = crf_ready_tags(tags, *chain.emissions.shape, chain.lengths, chain.mask)
        if ready is not None:
            return ready
    array = array_functions(chain.emissions)
    tags = _integers(array, name, tags)
    batch, steps, num_tags = chain.emissions.shape
    _expect_shape(name, tags, (batch, steps), "(batch, steps)")
    if chain.family != "numpy":
        return as_int32(tags)
    check_tags(tags, chain.valid_steps(), num_tags)
    return np.ascontiguousarray(np.where(chain.valid_steps(), tags, 0), np.int32)


def dense(name, value):
    """Return the value; refuse ragged and sparse tensors."""
    kind = type(value).__name__
    if kind in ("RaggedTensor", "SparseTensor"):
        raise ValueError(
            f"{name} must be a dense array or tensor, got a {kind}: take {name}.to_tensor() and "
            "lengths of row_lengths(), or tf.sparse.to_dense"
        )
    return value


def rank_of(array):
    """The number of dimensions of an array, a tensor, or nested lists."""
    return len(array.shape) if hasattr(array, "shape") else np.ndim(array)


def like(result, emissions):
    """Cast what an engine computed back to the dtype of the emissions the caller gave.

    In float16, what is beyond 65,504 becomes infinite.
    """
    if type(emissions) is np.ndarray is type(result) and emissions.dtype == result.dtype:
        return result  # the quick way
    if family_of(emissions) == "numpy":
        dtype = emissions.dtype.name if hasattr(emissions, "dtype") else None
        if dtype not in FLOATS:
            return result  # lists have no dtype, and integers are computed as floats
    else:
        dtype = dtype_of(emissions)
    if dtype_of(result) == dtype:
        return result
    if family_of(result) != "numpy":
        return array_functions(result).cast(result, dtype)
    with np.errstate(over="ignore"):
        return result.astype(dtype)


def as_array(result, emissions):
    """The result as a NumPy array, if the emissions are one and a tensor engine computed it."""
    if family_of(emissions) != "numpy" or isinstance(result, np.ndarray):
        return result
    return array_functions(result).convert_to_numpy(result)


def _valid_steps(array, emissions, lengths, mask):
    """Lengths as int32, and the mask: None, or a mask that takes the lengths into account."""
    batch, steps, _ = emissions.shape
    if mask is not None:
        mask = _booleans(array, "mask", mask)
        _expect_shape("mask", mask, (batch, steps), "(batch, steps)")
    batch_here, steps_here, _ = array.shape(emissions)  # tensors, if a graph does not know them
    if lengths is None:
        lengths = array.cast(array.broadcast_to(steps_here, (batch_here,)), "int32")
        return contiguous(lengths), mask
    lengths = _integers(array, "lengths", lengths)
    _expect_shape("lengths", lengths, (batch,), "(batch,)")
    if family_of(emissions) == "numpy":
        check_lengths(lengths, steps)
    lengths = contiguous(as_int32(lengths))
    if mask is not None:
        mask = contiguous(mask & (array.arange(steps_here, dtype="int32") < lengths[:, None]))
    return lengths, mask


def _floats(array, name, value):
    value = array.convert_to_tensor(dense(name, value))
    dtype = dtype_of(value)
    if isinstance(array, Spoken) and value.dtype.kind in "iu":
        return array.cast(value, "float32")
    if dtype not in FLOATS:
        raise ValueError(f"{name} must be one of {', '.join(FLOATS)}, got {dtype}")
    return value


def _integers(array, name, value):
    value = array.convert_to_tensor(dense(name, value))
    dtype = dtype_of(value)
    if not dtype.startswith(("int", "uint")):
        raise ValueError(f"{name} must be integers, got {dtype}")
    return value


def _booleans(array, name, value):
    value = array.convert_to_tensor(value)
    dtype = dtype_of(value)
    if not dtype.startswith(("bool", "int", "uint")):
        raise ValueError(f"{name} must be booleans or integers, got {dtype}")
    return contiguous(array.cast(value, "bool"))


def _one_less(steps):
    if steps is None or hasattr(steps, "dtype"):  # not known, or a tensor of a graph
        return steps if steps is None else steps - 1
    return max(steps - 1, 0)


def _shape(array):
    return tuple(array.shape)


def _expect_shape(name, array, expected, meaning):
    actual = _shape(array)
    fits = len(actual) == len(expected) and all(
        got is None or want is None or got == want
        for got, want in zip(actual, expected, strict=True)
    )
    if not fits:
        raise ValueError(f"{name} must have shape {meaning} = {tuple(expected)}, got {actual}")
