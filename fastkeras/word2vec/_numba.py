"""The reference compiled by Numba, with rows fetched ahead; threads race for rows as in C++.

In deterministic mode it runs on one thread, so the number of threads changes nothing.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from fastkeras.word2vec.problem import CHUNK, LOSSES

NEGATIVE_SAMPLING, HIERARCHICAL_SOFTMAX, SAMPLED_SOFTMAX = range(len(LOSSES))
TASK = 8 * CHUNK
LARGE = 1e300  # of a product in float64, of factors up to 2
FAST = {"contract", "reassoc", "nsz", "arcp"}  # sums in any order; infinities stay
compiled = numba.njit(nogil=True, error_model="numpy", fastmath=FAST)
inlined = numba.njit(nogil=True, error_model="numpy", fastmath=FAST, inline="always")


def train(
    ids, begin, end, inputs, outputs, tables, settings, key, schedule,
    num_threads=1, deterministic=False,
):  # fmt: skip
    longest = int(np.diff(tables.path_starts).max(initial=0))
    arguments = (
        inputs, outputs, *tables, longest,
        settings.objective == "cbow", LOSSES.index(settings.loss), settings.window,
        settings.negative, settings.shared_negatives, settings.exact_cbow,
        settings.shrink_windows, np.uint64(key), schedule.learning_rate, schedule.slope,
    )  # fmt: skip
    threads = 1 if deterministic else num_threads or len(os.sched_getaffinity(0))
    cuts = [begin, *range((begin // TASK + 1) * TASK, end, TASK), end]
    if threads == 1 or len(cuts) <= 2:
        results = [_pass(ids, begin, end, *arguments)]
    else:
        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(lambda a, b: _pass(ids, a, b, *arguments), cuts[:-1], cuts[1:]))
    loss, predictions, words = (sum(column) for column in zip(*results, strict=True))
    return loss, int(predictions), int(words)


@intrinsic
def _prefetch(typing_context, matrix, row, column):
    """Ask for a cache line of a matrix, to be in the second cache soon."""

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
def _mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inlined
def _bits_at(key, position):
    return _mix(key + np.uint64(position + 1) * np.uint64(0x9E3779B97F4A7C15))


@inlined
def _draw_noise(bits, number, noise):
    drawn = _mix(bits + np.uint64(number + 1) * np.uint64(0x9E3779B97F4A7C15))
    word = np.int64(((drawn >> np.uint64(32)) * np.uint64(len(noise))) >> np.uint64(32))
    if (drawn & np.uint64(0xFFFFFFFF)) < np.uint64(noise[word, 0]):
        return word
    return np.int64(noise[word, 1])


@inlined
def _fetch(matrix, row):
    for column in range(0, matrix.shape[1], 16):
        _prefetch(matrix, row, column)


@compiled
def _subsample(ids, begin, end, window, keep, key, words, bits, begins, ends):
    """Fill in the words that stay, as pass.h does; return where predictions lie, and the size."""
    first_position, found = begin, 0
    while first_position > 0 and ids[first_position - 1] >= 0 and found < window:
        first_position -= 1
        drawn = _bits_at(key, first_position)
        found += drawn >> np.uint64(32) <= np.uint64(keep[ids[first_position]])
    size, sentence, first, last = 0, 0, -1, -1
    position, found = first_position, 0
    while position < len(ids):
        if position == begin:
            first = size
        if position == end:
            last = size
        word = ids[position]
        if position >= end and (word < 0 or found >= window):
            break
        if word < 0:
            for i in range(sentence, size):
                ends[i] = size
            sentence = size
        else:
            drawn = _bits_at(key, position)
            if drawn >> np.uint64(32) <= np.uint64(keep[word]):
                words[size], bits[size], begins[size] = word, drawn, sentence
                size += 1
                found += position >= end
        position += 1
    for i in range(sentence, size):
        ends[i] = size
    return first if first >= 0 else size, last if last >= 0 else size, size


@compiled
def _draw(
    word, bits, number, loss, negative, noise, path_starts, path_nodes, path_signs, outputs,
    rows, signs,
):  # fmt: skip
    """Fill in one set of output rows; return how many."""
    if loss == HIERARCHICAL_SOFTMAX:
        count = path_starts[word + 1] - path_starts[word]
        for j in range(count):
            rows[j] = path_nodes[path_starts[word] + j]
            signs[j] = path_signs[path_starts[word] + j]
    else:
        rows[0], signs[0], count = word, -1, 1
        for n in range(number * negative, (number + 1) * negative):
            drawn = _draw_noise(bits, n, noise)
            if drawn != word:
                rows[count], signs[count] = drawn, 1
                count += 1
    for j in range(count):
        _fetch(outputs, rows[j])
    return count


@inlined
def _dot(a, i, b, j):
    """Two rows; never as arrays of their own, whose references would have to be counted."""
    total = np.float32(0)
    for s in range(a.shape[1]):
        total += a[i, s] * b[j, s]
    return total


@inlined
def _logistic(y, rate):
    """Return rate · sigmoid(y); and max(y, 0) and 1 + exp(−|y|), the loss but for a logarithm."""
    e = np.exp(-abs(y))
    sigmoid = (np.float32(1) if y > 0 else e) / (np.float32(1) + e)
    return rate * sigmoid, max(np.float64(y), 0.0), 1.0 + np.float64(e)


@compiled
def _softmax_errors(x, rows, count, offsets, rate):
    """Turn logits into errors times the rate; return the loss."""
    for j in range(1, count):
        x[j] += offsets[rows[j]]
    largest = x[:count].max()
    first = np.float64(x[0] - largest)
    others = 0.0
    for j in range(count):
        x[j] = np.exp(x[j] - largest)
        others += np.float64(x[j]) if j else 0.0
    total = others + np.float64(x[0])
    x[0] = -others
    for j in range(count):
        x[j] *= np.float32(-np.float64(rate) / total)
    return np.log(total) - first


@compiled
def _step(inputs, i, change, outputs, rows, signs, count, loss, offsets, x, rate):
    """Update the outputs of one input row, whose own change is added up; return the loss."""
    value, product = 0.0, 1.0
    stride = inputs.shape[1]
    change[:] = 0
    if loss == SAMPLED_SOFTMAX:
        for j in range(count):
            x[j] = _dot(inputs, i, outputs, rows[j])
        value = _softmax_errors(x, rows, count, offsets, rate)
        for j in range(count):  # all before any is changed: one may be there twice
            for s in range(stride):
                change[s] += x[j] * outputs[rows[j], s]
    for j in range(count):
        row = rows[j]
        if loss == SAMPLED_SOFTMAX:
            for s in range(stride):
                outputs[row, s] += x[j] * inputs[i, s]
            continue
        g, positive, factor = _logistic(signs[j] * _dot(inputs, i, outputs, row), rate)
        g *= -signs[j]
        value += positive
        product *= factor
        if product > LARGE:
            value += np.log(product)
            product = 1.0
        for s in range(stride):
            before = outputs[row, s]
            change[s] += g * before
            outputs[row, s] = before + g * inputs[i, s]
    return value + np.log(product)


@compiled
def _step_together(inputs, contexts, outputs, rows, signs, count, loss, offsets, x, copies, rate):
    """Update all contexts and one set of outputs, all gradients from the values before."""
    value, product = 0.0, 1.0
    stride = inputs.shape[1]
    for i in range(len(contexts)):
        for j in range(count):
            x[i, j] = _dot(inputs, contexts[i], outputs, rows[j])
        if loss == SAMPLED_SOFTMAX:
            value += _softmax_errors(x[i], rows, count, offsets, rate)
        else:
            for j in range(count):
                g, positive, factor = _logistic(signs[j] * x[i, j], rate)
                x[i, j] = -signs[j] * g
                value += positive
                product *= factor
                if product > LARGE:
                    value += np.log(product)
                    product = 1.0
    for j in range(count):
        for s in range(stride):
            copies[j, s] = outputs[rows[j], s]
    for j in range(count):
        row = rows[j]
        for i in range(len(contexts)):
            v, g = contexts[i], x[i, j]
            for s in range(stride):
                outputs[row, s] += g * inputs[v, s]
    for i in range(len(contexts)):
        v = contexts[i]
        for j in range(count):
            g = x[i, j]
            for s in range(stride):
                inputs[v, s] += g * copies[j, s]
    return value + np.log(product)


@compiled
def _pass(
    ids, begin, end, inputs, outputs, keep, noise, offsets, path_starts, path_nodes, path_signs,
    longest, cbow, loss, window, negative, shared, exact_cbow, shrink, key, learning_rate, slope,
):  # fmt: skip
    stride = inputs.shape[1]
    most = longest if loss == HIERARCHICAL_SOFTMAX else negative + 1
    one_set = cbow or shared or loss == HIERARCHICAL_SOFTMAX
    sets = 1 if one_set else 2 * window
    room = CHUNK + 2 * window
    words, begins, ends = np.empty((3, room), np.int64)
    bits = np.empty(room, np.uint64)
    contexts = np.empty((2, 2 * window), np.int64)  # of this window and the next
    num_contexts = np.zeros(2, np.int64)
    rows = np.empty((2, sets, most), np.int64)
    signs = np.empty((2, sets, most), np.float32)
    counts = np.zeros((2, sets), np.int64)
    x = np.empty((2 * window, most), np.float32)
    copies = np.empty((most, stride), np.float32)
    hidden, change = np.empty((1, stride), np.float32), np.empty(stride, np.float32)
    total_loss, predictions, kept = 0.0, 0, 0
    while begin < end:
        stop = min((begin // CHUNK + 1) * CHUNK, end)
        rate = np.float32(learning_rate + slope * (begin // CHUNK * CHUNK))
        first, last, size = _subsample(
            ids, begin, stop, window, keep, key, words, bits, begins, ends
        )
        kept += last - first
        for c in range(first, last + 1):
            if c < last:  # draw this window ...
                w, reach, count = c % 2, window, 0
                if shrink:
                    lower = bits[c] & np.uint64(0xFFFFFFFF)
                    reach = 1 + np.int64((lower * np.uint64(window)) >> np.uint64(32))
                for i in range(max(c - reach, begins[c]), min(c + reach + 1, ends[c])):
                    if i != c:
                        contexts[w, count] = words[i]
                        count += 1
                num_contexts[w] = count
                reached = min(c + window, size - 1)  # a context row is asked for once, early
                for i in range(c + window if c > first else 0, reached + 1):
                    _fetch(inputs, words[i])
                for number in range(min(count, 1) if one_set else count):
                    counts[w, number] = _draw(
                        words[c], bits[c], number, loss, negative, noise, path_starts,
                        path_nodes, path_signs, outputs, rows[w, number], signs[w, number],
                    )  # fmt: skip
            w = (c - 1) % 2  # ... and train the one before
            count = num_contexts[w]
            if c == first or count == 0:
                continue
            if cbow:
                predictions += 1
                share = np.float32(1) / np.float32(count)
                hidden[:] = 0
                for i in range(count):
                    v = contexts[w, i]
                    for s in range(stride):
                        hidden[0, s] += inputs[v, s] * share
                total_loss += _step(
                    hidden, 0, change, outputs, rows[w, 0], signs[w, 0], counts[w, 0], loss,
                    offsets, x[0], rate,
                )  # fmt: skip
                factor = share if exact_cbow else np.float32(1)
                for i in range(count):
                    v = contexts[w, i]
                    for s in range(stride):
                        inputs[v, s] += factor * change[s]
                continue
            predictions += count
            if shared:
                total_loss += _step_together(
                    inputs, contexts[w, :count], outputs, rows[w, 0], signs[w, 0], counts[w, 0],
                    loss, offsets, x, copies, rate,
                )  # fmt: skip
                continue
            for i in range(count):
                number = 0 if one_set else i
                v = contexts[w, i]
                total_loss += _step(
                    inputs, v, change, outputs, rows[w, number], signs[w, number],
                    counts[w, number], loss, offsets, x[0], rate,
                )  # fmt: skip
                for s in range(stride):
                    inputs[v, s] += change[s]
        begin = stop
    return total_loss, predictions, kept
