"""The TensorFlow op refuses malformed input, eagerly and in programs compiled by XLA."""

import numpy as np
import pytest
import tensorflow as tf

from fastkeras._ops.tensorflow_variables import library
from optimizer_arguments import numbers

B = numbers(2, 5)


def of_op():
    variables = [tf.Variable(numbers(2, 5, seed=k)) for k in range(3)]
    return {
        "parameters": variables[:1],
        "slots": variables[1:],
        "remainders": [],
        "gradients": [tf.constant(B)],
        "rows": [],
        "frozen": [False],
        "coefficients": tf.fill((1, 4), np.float64(0.1)),
        "decays": np.zeros(1),
        "chain_lengths": np.zeros(1, np.int32),
        "chain_kinds": np.zeros(0, np.int32),
        "chain_operands": np.zeros(0),
        "chain_groups": np.zeros(0, np.int32),
        "rates": np.ones(1),
        "seeds": np.zeros(0, np.uint32),
        "has_remainder": [False],
        "has_rows": [False],
        "adapted": [False],
        "dithered": [False],
        "quantized": [False],
        "rule": "adam",
    }


def call_op(arguments):
    arguments = dict(arguments)
    for name in ("parameters", "slots", "remainders"):
        arguments[name] = [variable.handle for variable in arguments[name]]
    return library.fastkeras_optimizer_step(**arguments)


def chain(lengths, kinds, operands=None, groups=None):
    operands = [1.0] * len(kinds) if operands is None else operands
    return {
        "chain_lengths": np.array(lengths, np.int32),
        "chain_kinds": np.array(kinds, np.int32),
        "chain_operands": np.array(operands, np.float64),
        "chain_groups": np.zeros(len(kinds) if groups is None else groups, np.int32),
    }


def variable(*shape, dtype="float32"):
    return tf.Variable(numbers(*shape, dtype=dtype))


def rows(*given):
    return {"rows": [np.array(given, np.int64)], "has_rows": [True]}


TWICE = variable(2, 5)
CODES = [tf.Variable(np.zeros(*of)) for of in (((2, 5), "uint8"), (1, "float32")) * 2]
HALVES = [variable(2, 5, dtype="bfloat16") for _ in range(2)]
BAD_OF_OP = [
    {"rule": "adafactor"}, {"rule": ""}, {"rule": "sgd"}, {"rule": "lion"},
    {"parameters": [variable(2, 6)]}, {"parameters": [variable(10)]},
    {"parameters": [variable(2, 5, dtype="float64")]}, {"parameters": [tf.Variable([1])]},
    {"parameters": []}, {"parameters": [TWICE], "slots": [TWICE, variable(2, 5)]},
    {"slots": []}, {"slots": [variable(2, 5)]}, {"slots": [variable(2, 5), variable(3, 5)]},
    {"slots": [variable(2, 5), variable(2, 5, dtype="float16")]},
    {"gradients": [B.T.copy()]}, {"gradients": [B[:1]]}, {"gradients": [B.astype("float64")]},
    {"gradients": [np.float32(1)]}, {"gradients": []},
    {"frozen": False}, {"frozen": [False, False]}, {"frozen": np.zeros(0, bool)},
    {"coefficients": np.zeros((1, 3))}, {"coefficients": np.zeros((1, 7))},
    {"coefficients": np.zeros((2, 4))}, {"coefficients": np.zeros(4)},
    {"decays": np.zeros(2)}, {"decays": np.float64(0)}, {"rates": np.zeros(0)},
    chain([1], []), chain([0], [0]), chain([-1], [0]), chain([2**31 - 1], [0]), chain([1], [9]),
    chain([1], [-1]), chain([1], [0], operands=[]), chain([1], [0], groups=2), chain([1, 0], [0]),
    rows(0), rows(0, 2), rows(-1, 0), rows(1, 1), rows(0, 2**62), rows(0, 1) | {"adapted": [True]},
    {"rows": [[[0, 1]]], "has_rows": [True]}, {"rows": [[0, 1]]}, {"has_rows": [True]},
    {"rows": [np.zeros(2, np.int32)], "has_rows": [True]},
    {"remainders": [variable(2, 5)], "has_remainder": [True]}, {"has_remainder": [True]},
    {"remainders": [variable(2, 5)]}, {"adapted": []}, {"quantized": [True]},
    {"quantized": [False] * 9}, {"quantized": []},
    {"quantized": [True], "slots": [variable(2, 5)] * 4},
    {"seeds": np.zeros(2, np.uint32)}, {"seeds": np.uint32(1)}, {"dithered": []},
    {"dithered": [True]}, {"quantized": [True], "slots": CODES}, {"slots": HALVES},
    {"slots": [HALVES[0], variable(2, 5)], "seeds": np.zeros(1, np.uint32)},
    {"slots": [variable(2, 5), HALVES[0]], "seeds": np.zeros(1, np.uint32)},
]  # fmt: skip


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("bad", BAD_OF_OP, ids=lambda bad: repr(bad)[:60])
def test_the_op_refuses_what_could_do_harm(bad, jit_compile):
    given = of_op() | bad
    call = tf.function(lambda: call_op(given), jit_compile=True) if jit_compile else None
    with pytest.raises((tf.errors.OpError, ValueError, TypeError)):
        call() if jit_compile else call_op(given)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_op_takes_what_is_well_formed(jit_compile):
    given = of_op()
    before = given["parameters"][0].numpy()
    assert tf.function(lambda: call_op(given), jit_compile=jit_compile)()
    assert (given["parameters"][0].numpy() != before).any()
    assert call_op(of_op() | rows(1, 0) | chain([2], [0, 4]))
