"""The reference compiled by Numba, with rows fetched ahead; threads update rows without locks.

In deterministic mode it runs on one thread, so the number of threads changes nothing.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fastkeras.word2vec._engines.numba.rows import add_change, add_vector, compiled, fetch_vector
from fastkeras.word2vec._engines.numba.steps import HIERARCHICAL_SOFTMAX, step, step_together
from fastkeras.word2vec._engines.numba.windows import draw, subsample
from fastkeras.word2vec.training.settings import CHUNK, LOSSES, reach_of

SUBWORDS = BOTH_LOSSES = True  # which not every engine takes
TASK = 8 * CHUNK


def train(
    ids, begin, end, inputs, outputs, tables, settings, key, schedule,
    num_threads=1, deterministic=False, documents=None,
):  # fmt: skip
    assert documents is None  # it has no DOCUMENTS
    reach = reach_of(ids, settings.window, begin, end)
    longest = int(np.diff(tables.path_starts).max(initial=0))
    arguments = (
        inputs, outputs, *tables, longest,
        settings.objective == "cbow", LOSSES.index(settings.loss), settings.window, reach,
        settings.negative, settings.shared_negatives, settings.exact_cbow,
        settings.exact_subwords, settings.shrink_windows, np.uint64(key),
        schedule.learning_rate, schedule.slope,
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


@compiled
def _pass(
    ids, begin, end, inputs, outputs, keep, noise, offsets, path_starts, path_nodes, path_signs,
    bag_starts, bag_rows, longest, cbow, loss, window, reach, negative, shared, exact_cbow,
    exact_subwords, shrink, key, learning_rate, slope,
):  # fmt: skip
    stride = inputs.shape[1]
    most = longest + (0 if loss == HIERARCHICAL_SOFTMAX else negative + 1)
    one_set = cbow or shared or loss == HIERARCHICAL_SOFTMAX
    sets = 1 if one_set else 2 * reach
    room = CHUNK + 2 * reach
    words, begins, ends = np.empty((3, room), np.int64)
    bits = np.empty(room, np.uint64)
    contexts = np.empty((2, 2 * reach), np.int64)  # of this window and the next
    num_contexts = np.zeros(2, np.int64)
    rows = np.empty((2, sets, most), np.int64)
    signs = np.empty((2, sets, most), np.float32)
    counts = np.zeros((2, sets), np.int64)
    x = np.empty((2 * reach, most), np.float32)
    copies = np.empty((most, stride), np.float32)
    vectors = np.empty((2 * reach, stride), np.float32)
    changes = np.empty((2 * reach, stride), np.float32)
    in_order = np.arange(2 * reach)
    one = np.float32(1)
    total_loss, predictions, kept = 0.0, 0, 0
    while begin < end:
        stop = min((begin // CHUNK + 1) * CHUNK, end)
        rate = np.float32(learning_rate + slope * (begin // CHUNK * CHUNK))
        first, last, size = subsample(ids, begin, stop, reach, keep, key, words, bits, begins, ends)
        kept += last - first
        for c in range(first, last + 1):
            if c < last:  # draw this window ...
                w, width, count = c % 2, window, 0
                if shrink:
                    lower = bits[c] & np.uint64(0xFFFFFFFF)
                    width = 1 + np.int64((lower * np.uint64(window)) >> np.uint64(32))
                for i in range(max(c - width, begins[c]), min(c + width + 1, ends[c])):
                    if i != c:
                        contexts[w, count] = words[i]
                        count += 1
                num_contexts[w] = count
                reached = min(c + reach, size - 1)  # fetch each context row early, and once
                for i in range(c + reach if c > first else 0, reached + 1):
                    fetch_vector(inputs, words[i], bag_starts, bag_rows)
                for number in range(min(count, 1) if one_set else count):
                    counts[w, number] = draw(
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
                vectors[0, :] = 0
                for i in range(count):
                    v = contexts[w, i]
                    add_vector(inputs, v, bag_starts, bag_rows, share, vectors, 0)
                total_loss += step(
                    vectors, 0, changes, outputs, rows[w, 0], signs[w, 0], counts[w, 0], loss,
                    offsets, x[0], rate,
                )  # fmt: skip
                share = share if exact_cbow else one
                for i in range(count):
                    v = contexts[w, i]
                    add_change(inputs, v, bag_starts, bag_rows, exact_subwords, share, changes, 0)
                continue
            predictions += count
            if shared and not len(bag_starts):
                total_loss += step_together(
                    inputs, contexts[w, :count], inputs, outputs, rows[w, 0], signs[w, 0],
                    counts[w, 0], loss, offsets, x, copies, rate,
                )  # fmt: skip
                continue
            if shared:
                vectors[:count], changes[:count] = 0, 0
                for i in range(count):
                    v = contexts[w, i]
                    add_vector(inputs, v, bag_starts, bag_rows, one, vectors, i)
                total_loss += step_together(
                    vectors, in_order[:count], changes, outputs, rows[w, 0], signs[w, 0],
                    counts[w, 0], loss, offsets, x, copies, rate,
                )  # fmt: skip
                for i in range(count):
                    v = contexts[w, i]
                    add_change(inputs, v, bag_starts, bag_rows, exact_subwords, one, changes, i)
                continue
            for i in range(count):
                number = 0 if one_set else i
                v = contexts[w, i]
                of_set = rows[w, number], signs[w, number], counts[w, number]
                if len(bag_starts):
                    vectors[0, :] = 0
                    add_vector(inputs, v, bag_starts, bag_rows, one, vectors, 0)
                    total_loss += step(
                        vectors, 0, changes, outputs, *of_set, loss, offsets, x[0], rate
                    )
                else:
                    total_loss += step(
                        inputs, v, changes, outputs, *of_set, loss, offsets, x[0], rate
                    )
                add_change(inputs, v, bag_starts, bag_rows, exact_subwords, one, changes, 0)
        begin = stop
    return total_loss, predictions, kept
