"""Random draws in Numba: which words stay, and the output rows of a window."""

import numpy as np

from fastkeras.word2vec._engines.numba.rows import compiled, fetch, inlined
from fastkeras.word2vec._engines.numba.steps import BOTH, HIERARCHICAL_SOFTMAX


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


@compiled
def subsample(ids, begin, end, reach, keep, key, words, bits, begins, ends):
    """Write the words that stay, as chunk.h does; return first and last, and how many words.

    Words first..last-1 are the centers; the others are those that windows reach outside the slice.
    """
    first_position, found = begin, 0
    while first_position > 0 and ids[first_position - 1] >= 0 and found < reach:
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
        if position >= end and (word < 0 or found >= reach):
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
def draw(
    word, bits, number, loss, negative, noise, path_starts, path_nodes, path_signs, outputs,
    rows, signs,
):  # fmt: skip
    """Write one set of output rows; return how many."""
    count = 0
    if loss != HIERARCHICAL_SOFTMAX:
        rows[0], signs[0], count = word, -1, 1
        for n in range(number * negative, (number + 1) * negative):
            drawn = _draw_noise(bits, n, noise)
            if drawn != word:
                rows[count], signs[count] = drawn, 1
                count += 1
    if loss in (HIERARCHICAL_SOFTMAX, BOTH):
        for j in range(path_starts[word], path_starts[word + 1]):
            rows[count], signs[count] = path_nodes[j], path_signs[j]
            count += 1
    for j in range(count):
        fetch(outputs, rows[j])
    return count
