"""A saved graph that calls one of our ops with malformed inputs or attributes raises an error.

A saved graph runs none of the checks in Python, and its placeholders may have any shape. All cases
run in one separate process, which must survive.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("fastkeras._ops.tensorflow", reason="the ops were not built")

# The op of the optimizers takes variables; its malformed calls are in optimizers/test_op_doors.py.
SCRIPT = """
import sys
import numpy as np
import tensorflow as tf
from tensorflow.python.client import pywrap_tf_session
from tensorflow.core.framework import op_def_pb2
from fastkeras._ops import tensorflow as tensorflow_ops

graph_of = tf.compat.v1
rng = np.random.default_rng(0)
batch, steps, tags, words, size = 2, 3, 4, 5, 6

def numbers(*shape):
    return rng.standard_normal(shape).astype("f4")

emissions, transitions = numbers(batch, steps, tags), numbers(tags, tags)
varying = numbers(batch, steps - 1, tags, tags)
lengths = np.int32([3, 2])
mask = np.ones((batch, steps), bool)
path = np.ones((batch, steps), "i4")
chain = [emissions, transitions, numbers(tags), numbers(tags), lengths, mask]
segments = [emissions, transitions, numbers(2, tags), lengths, numbers(tags), numbers(tags)]
workspace = np.zeros(batch * steps * (2 * tags + 1) + batch, "f4")
gradient = [path, numbers(batch), workspace, numbers(batch)]
weighted = [*chain, path, numbers(batch, steps)]
weighted_workspace = np.zeros(batch * steps * (2 * tags + 2) + batch, "f4")
entropy_workspace = np.zeros(batch * steps * (4 * tags + 1) + batch, "f4")
second_order = [*chain, numbers(tags, tags, tags)]
kept = np.zeros(batch * ((steps + 5) // 8 * tags**2 + steps + 2), "f4")
places = np.int32([[0, 1], [2, 4], [4, -1]])
threads = {"num_threads": 1}
CALLS = {  # for each op: its inputs, and its attributes besides T
    "CrfValue": ([*chain, path], {"quantity": 2, "keep_workspace": True, **threads}),
    "CrfGradient": ([*chain, *gradient], {"quantity": 2, **threads}),
    "CrfVaryingValue": (
        [emissions, varying, *chain[2:], path], {"quantity": 2, **threads}
    ),
    "CrfWeigh": (
        [emissions, varying, numbers(batch), lengths, mask, numbers(batch)], threads
    ),
    "CrfWeightedValue": (weighted, {"keep_workspace": True, **threads}),
    "CrfWeightedGradient": (
        [*weighted, numbers(batch), weighted_workspace, numbers(batch)], threads
    ),
    "CrfEntropy": (chain, {"keep_workspace": True, **threads}),
    "CrfEntropyGradient": (
        [*chain, numbers(batch), entropy_workspace, numbers(batch)], threads
    ),
    "CrfMarginals": (chain, threads),
    "CrfViterbi": (chain, threads),
    "CrfKBest": (chain, {"k": 2, **threads}),
    "CrfSample": ([*chain, rng.random((2, batch, steps)).astype("f4")], threads),
    "SecondOrderValue": (
        [*second_order, path], {"quantity": 2, "keep_workspace": True, **threads}
    ),
    "SecondOrderGradient": (
        [*second_order, path, numbers(batch), kept, numbers(batch)], {"quantity": 2, **threads}
    ),
    "SecondOrderMarginals": (second_order, threads),
    "SecondOrderViterbi": (second_order, threads),
    "SemiMarkovLogPartition": (segments, threads),
    "SemiMarkovMarginals": (segments, threads),
    "SemiMarkovViterbi": (segments, threads),
    "Seq2seqSelect": (
        [emissions, numbers(batch, steps), np.ones((batch, steps, 2), "i4"),
         np.ones((batch, 1, tags), bool), np.array(1.2)],
        {"num_candidates": 2, "no_repeat_ngram": 2, **threads},
    ),
    "Word2vecGroup": ([places], {"num_words": words, "holes": True}),
    "Word2vecPool": ([numbers(words, size), places, numbers(3, 2)], threads),
    "Word2vecSpread": (
        [numbers(3, size), numbers(3, 2), np.int32([0, 1, 2, 3, 4, -1]), np.int32([0, 2, 5])],
        threads,
    ),
    "Word2vecLoss": (
        [numbers(3, size), numbers(words, size), numbers(words), numbers(words), abs(places)],
        {"loss": 0, **threads},
    ),
}

registered = op_def_pb2.OpList.FromString(
    pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
)
OPS = {op.name.removeprefix("Fastkeras>"): op for op in registered.op if "Fastkeras>" in op.name}
assert OPS.keys() - {"OptimizerStep"} == CALLS.keys(), OPS.keys() ^ CALLS.keys()

def run(op, inputs, attributes):
    graph = graph_of.GraphDef()
    graph.versions.producer = tf.Graph().graph_def_versions.producer
    call = graph.node.add(name="call", op=f"Fastkeras>{op}")
    for i, value in enumerate(inputs):
        node = graph.node.add(name=f"input{i}", op="Placeholder")
        node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
        node.attr["shape"].shape.unknown_rank = True
        call.input.append(node.name)
    for name, value in attributes.items():
        if isinstance(value, bool):
            call.attr[name].b = value
        elif isinstance(value, int):
            call.attr[name].i = value
        elif value is not None:
            call.attr[name].s = value
    if any(attribute.name == "T" for attribute in OPS[op].attr):
        first = inputs[[arg.type_attr for arg in OPS[op].input_arg].index("T")]
        call.attr["T"].type = tf.as_dtype(first.dtype).as_datatype_enum
    try:
        with tf.Graph().as_default() as imported, graph_of.Session(graph=imported) as session:
            graph_of.import_graph_def(graph, name="")
            feeds = {f"input{i}:0": value for i, value in enumerate(inputs)}
            session.run([f"call:{i}" for i in range(len(OPS[op].output_arg))], feeds)
    except (tf.errors.OpError, ValueError, TypeError, MemoryError) as error:
        return error
    return None

def other_inputs(value):  # with whether each must be refused
    yield value[..., None], True
    if value.ndim > 1:
        yield value[0], True
        yield value.reshape(-1), True
    yield value.reshape(-1)[0], value.ndim > 0
    for dtype in ("f4", "f8", "i4", "i8", "?", "f2"):
        if value.dtype != dtype:
            yield value.astype(dtype), True
    for axis in range(value.ndim):
        yield np.concatenate([value, value], axis), False
        yield value.take(range(value.shape[axis] - 1), axis), False
        yield value.take([], axis), False
    extremes = (-1, -2, 99, 2**31 - 1, -(2**31)) if value.dtype == "i4" else (np.nan, np.inf)
    for extreme in extremes if value.dtype != bool else (False,):
        for chosen in (slice(None), 0, -1):
            other = value.copy()
            other.reshape(-1)[chosen] = extreme
            yield other, False

def other_attributes(name, value):
    if not isinstance(value, bool):
        for number in (-1, 0, 1, 3, 99, 2**31 - 1, -(2**31), 2**31, 2**62, -(2**63)):
            if name not in ("k", "num_words", "num_candidates") or number < 2**20:
                yield number, name not in ("num_threads",) and not 0 <= number < 2**31
    yield None, False  # there may be a default
    yield b"x", True

cases = 0
for op, (inputs, attributes) in CALLS.items():
    for dtype in ("f4", "f8"):
        given = [value.astype(dtype) if value.dtype == "f4" else value for value in inputs]
        error = run(op, given, attributes)
        assert error is None, (op, error)
    for i, value in enumerate(inputs):
        for other, bad in other_inputs(value):
            print(op, i, other.dtype, other.shape, other.ravel()[:4], file=sys.stderr, flush=True)
            error = run(op, [*inputs[:i], np.asarray(other), *inputs[i + 1:]], attributes)
            assert error is not None or not bad, (op, i, other)
            cases += 1
    for name, value in attributes.items():
        for other, bad in other_attributes(name, value):
            print(op, name, other, file=sys.stderr, flush=True)
            error = run(op, inputs, {**attributes, name: other})
            assert error is not None or not bad, (op, name, other)
            cases += 1
print(cases)
"""


def test_every_op_of_a_saved_graph_raises_or_answers():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 500
