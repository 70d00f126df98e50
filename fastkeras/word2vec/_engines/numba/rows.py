"""Rows of the input matrix in Numba, one or a bag of them for a word: fetched ahead, multiplied."""

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

FAST = {"contract", "reassoc", "nsz", "arcp"}  # sums in any order, but infinities are respected
compiled = numba.njit(nogil=True, error_model="numpy", fastmath=FAST)
inlined = numba.njit(nogil=True, error_model="numpy", fastmath=FAST, inline="always")


@intrinsic
def _prefetch(typing_context, matrix, row, column):
    """Prefetch a cache line of a matrix into the second-level cache."""

    def generate(context, builder, signature, arguments):
        kind = signature.args[0]
        array = context.make_array(kind)(context, builder, arguments[0])
        strides = numba.core.cgutils.unpack_tuple(builder, array.strides, 2)
        offset = builder.add(
            builder.mul(arguments[1], strides[0]), builder.mul(arguments[2], strides[1])
        )
        byte = ir.IntType(8).as_pointer()
        pointer = builder.gep(builder.bitcast(array.data, byte), [offset])
        integer = ir.IntType(32)
        function = numba.core.cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer]),
            "llvm.prefetch.p0i8",
        )
        builder.call(function, [pointer, integer(0), integer(2), integer(1)])
        return context.get_dummy_value()

    return numba.void(matrix, numba.int64, numba.int64), generate


@inlined
def fetch(matrix, row):
    for column in range(0, matrix.shape[1], 16):
        _prefetch(matrix, row, column)


@compiled
def fetch_vector(inputs, word, bag_starts, bag_rows):
    """Prefetch the row of a word, or with subwords its bag of rows."""
    if not len(bag_starts):
        fetch(inputs, word)
        return
    for k in range(bag_starts[word], bag_starts[word + 1]):
        fetch(inputs, bag_rows[k])


@inlined
def dot(a, i, b, j):
    """Multiply two rows; as separate arrays they would need reference counts, which cost time."""
    total = np.float32(0)
    for s in range(a.shape[1]):
        total += a[i, s] * b[j, s]
    return total


@inlined
def add_vector(inputs, word, bag_starts, bag_rows, factor, vectors, i):
    """Add a word's vector (its row, or the mean of its bag) times a factor to vectors[i]."""
    if len(bag_starts):
        _add_mean(inputs, word, bag_starts, bag_rows, factor, vectors, i)
    else:
        for s in range(inputs.shape[1]):
            vectors[i, s] += inputs[word, s] * factor


@inlined
def add_change(inputs, word, bag_starts, bag_rows, exact, factor, changes, i):
    """Add changes[i] times a factor to a word's row, or to each row of its bag.

    If `exact`, each row of a bag gets only its share.
    """
    if len(bag_starts):
        _add_to_bag(inputs, word, bag_starts, bag_rows, exact, factor, changes, i)
    else:
        for s in range(inputs.shape[1]):
            inputs[word, s] += factor * changes[i, s]


@inlined
def _times(bag_rows, begin, end):
    """How often a row follows itself in a bag: n-grams of one bucket are added together, once."""
    after = begin + 1
    while after < end and bag_rows[after] == bag_rows[begin]:
        after += 1
    return after - begin


@compiled
def _add_mean(inputs, word, bag_starts, bag_rows, factor, vectors, i):
    begin, end = bag_starts[word], bag_starts[word + 1]
    factor /= np.float32(end - begin)
    while begin < end:
        row, times = bag_rows[begin], _times(bag_rows, begin, end)
        share = factor * np.float32(times)
        for s in range(inputs.shape[1]):
            vectors[i, s] += inputs[row, s] * share
        begin += times


@compiled
def _add_to_bag(inputs, word, bag_starts, bag_rows, exact, factor, changes, i):
    begin, end = bag_starts[word], bag_starts[word + 1]
    if exact:
        factor /= np.float32(end - begin)
    while begin < end:
        row, times = bag_rows[begin], _times(bag_rows, begin, end)
        share = factor * np.float32(times)
        for s in range(inputs.shape[1]):
            inputs[row, s] += share * changes[i, s]
        begin += times
