"""Eager calls of the `keras` engine: they check values, and are compiled."""

from functools import cache, wraps
from inspect import signature

import numpy as np
from keras import backend, ops, tree

from fastkeras.crf._engines import reference
from fastkeras.crf.chain import Chain, check_values


def engine_function(function):
    """Check what depends on values, where there are values, and compile eager calls.

    Not compiled, a loop is slow in TensorFlow, and JAX compiles it anew at each call.
    """
    takes_tags = "tags" in signature(function).parameters
    compiled = function
    if backend.backend() == "jax":
        from jax import jit

        compiled = jit(function)
    elif backend.backend() == "tensorflow":
        compiled = _in_a_graph(function)
    elif backend.backend() == "torch":
        compiled = _without_autocast(function)

    @wraps(function)
    def checked(chain, *arguments):
        check_values(chain, arguments[0] if takes_tags else None)
        shape = chain.emissions.shape
        if 0 in shape and None not in shape:
            return of_no_steps(function.__name__, chain, *arguments)
        return compiled(chain, *arguments)

    return checked


def of_no_steps(name, chain, *arguments, engine=reference):
    """The results for no steps, whatever the scores, since loops over nothing are not portable."""

    def zeros(value):
        if value is None or isinstance(value, int):
            return value
        return np.zeros(value.shape, backend.standardize_dtype(value.dtype))

    results = getattr(engine, name)(Chain(*map(zeros, chain)), *map(zeros, arguments))
    return tree.map_structure(ops.convert_to_tensor, results)


def _without_autocast(function):
    from fastkeras._ops.torch_arrays import without_autocast

    @wraps(function)
    def call(chain, *more):
        with without_autocast(ops.convert_to_tensor(chain.emissions)):
            return function(chain, *more)

    return call


def _in_a_graph(function):
    import tensorflow as tf

    @cache
    def graph(num_tags, dtype, rank_of_transitions, masked, ranks_and_dtypes_of_more):
        boundary = tf.TensorSpec((num_tags,), dtype)
        specs = Chain(
            tf.TensorSpec((None, None, num_tags), dtype),
            tf.TensorSpec((None, None, num_tags, num_tags)[4 - rank_of_transitions :], dtype),
            tf.TensorSpec((None,), tf.int32),
            tf.TensorSpec((None, None), tf.bool) if masked else None,
            boundary,
            boundary,
        )
        more = (tf.TensorSpec((None,) * rank, dtype) for rank, dtype in ranks_and_dtypes_of_more)

        def call(*tensors):
            tensors = iter(tensors)
            chain = Chain(*(None if spec is None else next(tensors) for spec in specs))
            return function(chain, *tensors)

        signature = [spec for spec in (*specs, *more) if spec is not None]
        return tf.function(call, input_signature=signature, autograph=False)

    @wraps(function)
    def call(chain, *more):
        if not tf.executing_eagerly():
            return function(chain, *more)
        chain = Chain(*(None if part is None else ops.convert_to_tensor(part) for part in chain))
        more = [ops.convert_to_tensor(part) for part in more]
        x, rank = chain.emissions, len(chain.transitions.shape)
        of_more = tuple((len(part.shape), part.dtype) for part in more)
        compiled = graph(x.shape[2], x.dtype, rank, chain.mask is not None, of_more)
        return compiled(*(part for part in (*chain, *more) if part is not None))

    return call
