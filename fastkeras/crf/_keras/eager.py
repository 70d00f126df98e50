"""Eager calls of the `keras` engine: what they check, and how they are compiled."""

from functools import cache, wraps

import numpy as np
from keras import backend, ops, tree

from fastkeras.crf import _reference
from fastkeras.crf.arguments import _NumPy as on_numpy


def engine_function(function):
    """Check what depends on values, where there are values, and compile eager calls.

    Eagerly, a loop of TensorFlow is slow, and one of JAX is compiled anew at each call.
    """
    takes_tags = "tags" in function.__code__.co_varnames[: function.__code__.co_argcount]
    compiled = function
    if backend.backend() == "jax":
        from jax import jit

        compiled = jit(function)
    elif backend.backend() == "tensorflow":
        compiled = _in_a_graph(function, takes_tags)

    @wraps(function)
    def checked(emissions, *arguments):
        _, lengths, mask = arguments[1:4] if takes_tags else arguments[:3]
        check_lengths(lengths, emissions)
        if takes_tags:
            check_tags(emissions, arguments[0], lengths, mask)
        if 0 in emissions.shape and None not in emissions.shape:
            return of_no_steps(function.__name__, emissions, *arguments)
        return compiled(emissions, *arguments)

    return checked


def of_no_steps(name, *arguments):
    """The results without any step, whatever the scores; loops over nothing are not portable."""
    zeros = [
        a
        if a is None or isinstance(a, int)
        else np.zeros(a.shape, backend.standardize_dtype(a.dtype))
        for a in arguments
    ]
    return tree.map_structure(ops.convert_to_tensor, getattr(_reference, name)(*zeros))


def _in_a_graph(function, takes_tags):
    import tensorflow as tf

    mask_at = 4 if takes_tags else 3

    @cache
    def graph(num_tags, dtype, masked, rank_of_transitions, ranks_of_more):
        x, transitions, boundary, *more = (
            tf.TensorSpec(shape, dtype)
            for shape in (
                (None, None, num_tags),
                (None, None, num_tags, num_tags)[4 - rank_of_transitions :],
                (num_tags,),
                *((None,) * rank for rank in ranks_of_more),
            )
        )
        steps = [tf.TensorSpec((None, None), tf.bool)] if masked else []
        tags = [tf.TensorSpec((None, None), tf.int32)] if takes_tags else []
        lengths = tf.TensorSpec((None,), tf.int32)
        signature = [x, *tags, transitions, lengths, *steps, boundary, boundary, *more]

        def call(*tensors):
            mask = [] if masked else [None]
            return function(*tensors[:mask_at], *mask, *tensors[mask_at:])

        return tf.function(call, input_signature=signature, autograph=False)

    @wraps(function)
    def call(*arguments):
        if not tf.executing_eagerly():
            return function(*arguments)
        ranks_of_more = tuple(len(a.shape) for a in arguments[mask_at + 3 :])
        tensors = [ops.convert_to_tensor(a) for a in arguments if a is not None]
        x, transitions = tensors[0], tensors[mask_at - 2]
        masked, rank = arguments[mask_at] is not None, len(transitions.shape)
        return graph(x.shape[2], x.dtype, masked, rank, ranks_of_more)(*tensors)

    return call


def check_lengths(lengths, emissions):
    """As for arrays, where the lengths have values."""
    if _is_concrete(lengths):
        on_numpy.check_lengths(ops.convert_to_numpy(lengths), emissions.shape[1])


def check_tags(emissions, tags, lengths, mask):
    """As for arrays; a graph, which cannot raise, gives NaN instead."""
    if _is_concrete(tags) and _is_concrete(lengths if mask is None else mask):
        lengths = ops.convert_to_numpy(lengths) if mask is None else None
        mask = None if mask is None else ops.convert_to_numpy(mask)
        on_numpy.check_tags(ops.convert_to_numpy(tags), lengths, mask, emissions.shape[2])


def _is_concrete(tensor):
    name = backend.backend()
    if isinstance(tensor, np.ndarray):
        return True
    if name == "tensorflow":
        return hasattr(tensor, "numpy")  # a symbolic tensor has no such attribute
    if name == "jax":
        from jax.core import Tracer

        return not isinstance(tensor, Tracer)
    return name != "torch" or tensor.device.type != "meta"
