"""Malformed tensors and attributes of the TensorFlow ops are refused, or do no harm."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def ops():
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    ops = pytest.importorskip("fastkeras._ops.tensorflow", reason="the ops were not built")
    return tf, ops.library


def calls(tf):
    """The arguments of a good call of each op, tensors first."""
    return {
        "group": ({"ids": tf.constant([[0, 1], [2, 0]])}, {"num_words": 3, "holes": False}),
        "pool": (
            {
                "rows": tf.ones((3, 4)),
                "places": tf.constant([[0, 2], [1, -1]]),
                "weights": tf.ones((2, 2)),
            },
            {"num_threads": 1},
        ),
        "spread": (
            {
                "upstream": tf.ones((2, 4)),
                "factors": tf.ones((2, 2)),
                "order": tf.constant([0, 3, 1, 2]),
                "starts": tf.constant([0, 2, 3, 4]),
            },
            {"num_threads": 1},
        ),
        "loss": (
            {
                "hidden": tf.ones((2, 4)),
                "rows": tf.ones((3, 4)),
                "bias": tf.ones(3),
                "offset": tf.ones(3),
                "places": tf.constant([[0, 2], [1, 1]]),
            },
            {"num_threads": 1, "loss": 0},
        ),
    }


def malformed_tensors(tf, tensor):
    shape = tuple(tensor.shape)
    yield tf.zeros((), tensor.dtype)
    yield tf.zeros((*shape, 1), tensor.dtype)
    yield tf.reshape(tensor, (-1,)) if len(shape) > 1 else tensor[None]
    yield tf.zeros((0, *shape[1:]), tensor.dtype)
    yield tf.zeros((*shape[:-1], 0), tensor.dtype)
    yield tf.zeros((2**40, *shape[1:-1], 0), tensor.dtype)
    yield tf.zeros((0, *[2**40] * (len(shape) - 1)), tensor.dtype)
    yield tf.concat([tensor, tensor], 0)
    yield tf.concat([tensor, tensor], -1)
    yield tensor[1:]
    yield tensor[..., 1:]
    yield tf.cast(tensor, tf.float16)
    yield tf.cast(tensor, tf.int64)
    yield tf.strings.as_string(tensor)
    if tensor.dtype == tf.int32:
        for value in (-1, -2, 3, 99, 2**31 - 1, -(2**31)):
            yield tf.fill(shape, value)
            yield tf.concat([tensor[:-1], tf.fill(shape, value)[-1:]], 0)
        yield tensor[::-1]
    else:
        for value in (np.nan, np.inf, -np.inf, 3e38):
            yield tf.fill(shape, tf.constant(value, tensor.dtype))


@pytest.mark.parametrize("op", ["group", "pool", "spread", "loss"])
def test_ops_answer_or_raise(ops, op):
    """On any tensors and attributes: the kernels check every number that they use as a position."""
    tf, library = ops
    tensors, attributes = calls(tf)[op]
    function = getattr(library, f"fastkeras_word2vec_{op}")
    good = function(**tensors, **attributes)
    refused = 0
    for name, tensor in tensors.items():
        for bad in malformed_tensors(tf, tensor):
            refused += _raises(tf, function, {**tensors, name: bad}, attributes)
            refused += _raises(tf, tf.function(function), {**tensors, name: bad}, attributes)
    for name in attributes:
        for value in (-1, -(2**31), 2**31 - 1 if name != "num_words" else 7, 2**40):
            refused += _raises(tf, function, tensors, {**attributes, name: value})
    assert refused > 10
    again = function(**tensors, **attributes)
    for one, other in zip(tf.nest.flatten(good), tf.nest.flatten(again), strict=True):
        np.testing.assert_array_equal(one, other)


def _raises(tf, function, tensors, attributes):
    try:
        tf.nest.map_structure(np.asarray, function(**tensors, **attributes))
    except (tf.errors.OpError, TypeError, ValueError, OverflowError):
        return True
    return False
