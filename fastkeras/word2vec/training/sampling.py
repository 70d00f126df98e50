"""Random numbers as a function of the position, and the tables from which they draw.

There is no state: what a position draws depends on seed, epoch and position alone, so every engine
draws the same, on any number of threads, from any slice of the corpus.
"""

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix(z):
    """Return the finalizer of SplitMix64 (Steele, Lea, Flood 2014) of a uint64 or an array."""
    z = np.asarray(z, np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key_of(seed, epoch):
    """Return the key of an epoch, an int."""
    first = int(mix(np.array([(seed + GOLDEN) & _MASK], np.uint64))[0])
    return int(mix(np.array([(first + epoch) & _MASK], np.uint64))[0])


def bits_at(key, positions):
    """Return 64 random bits for each position, uint64."""
    counters = (np.asarray(positions, np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
    return mix(counters + np.uint64(key))


def stays(bits, keep):
    """Return whether words stay: the upper 32 bits against the thresholds `keep`."""
    return bits >> np.uint64(32) <= keep


def window_of(bits, window):
    """Return widths of windows, uniform on 1..window, from the lower 32 bits."""
    lower = bits & np.uint64(0xFFFFFFFF)
    return 1 + (lower * np.uint64(window) >> np.uint64(32)).astype(np.int64)


def draw_noise(bits, first, count, noise):
    """Return the draws number first..first+count-1 of the positions with these bits, words."""
    numbers = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    drawn = mix(np.uint64(bits) + numbers * np.uint64(GOLDEN))
    words = ((drawn >> np.uint64(32)) * np.uint64(len(noise)) >> np.uint64(32)).astype(np.int64)
    itself = (drawn & np.uint64(0xFFFFFFFF)) < noise[words, 0]
    return np.where(itself, words, noise[words, 1])


def keep_thresholds(counts, sample):
    """Return for each word the highest value of 32 random bits with which it stays, uint32.

    A word of relative frequency f stays with probability sqrt(t / f) + t / f with t = `sample`
    (word2vec.c), and always if that is 1 or more, or t is 0.
    """
    if not sample:
        return np.full(len(counts), 0xFFFFFFFF, np.uint32)
    ratios = sample * np.sum(counts, dtype=np.float64) / np.maximum(counts, 1)
    probabilities = np.minimum(np.sqrt(ratios) + ratios, 1)
    return np.maximum(np.ceil(probabilities * 2.0**32) - 1, 0).astype(np.uint32)


def alias_table(weights):
    """Return the table of the alias method (Walker 1977; Vose 1991), uint32 of shape (words, 2).

    If 32 uniform bits are below the first number of a row, its own word is drawn, else the second.
    """
    size = len(weights)
    scaled = (np.asarray(weights, np.float64) * (size / np.sum(weights))).tolist()
    alias = list(range(size))
    small = [word for word in range(size) if scaled[word] < 1]
    large = [word for word in range(size) if scaled[word] >= 1]
    while small and large:
        word, donor = small.pop(), large[-1]
        alias[word] = donor
        scaled[donor] -= 1 - scaled[word]
        if scaled[donor] < 1:
            small.append(large.pop())
    for word in (*small, *large):  # these are 1 up to rounding
        scaled[word] = 1.0
    table = np.empty((size, 2), np.uint32)
    table[:, 0] = np.minimum(np.array(scaled) * 2.0**32, 0xFFFFFFFF)
    table[:, 1] = alias
    return table


def huffman_paths(counts):
    """Return (starts, nodes, signs) of the paths from the root to each word in a Huffman tree.

    Args:
        counts: of the words, descending.

    Returns:
        `starts`, int64 of shape (words + 1,): the path of word w is starts[w]..starts[w + 1] - 1
        of `nodes`, int32, the rows of inner nodes, and of `signs`, float32: −1 at a branch with
        code 0, where the loss is log(1 + exp(−x)), and 1 at a branch with code 1.
    """
    size = len(counts)
    parents, codes = _huffman_tree(np.asarray(counts)[::-1].tolist())
    root = 2 * size - 2
    at = np.arange(size - 1, -1, -1)  # leaf 0 is the rarest word
    steps = []
    while (at != root).any():  # all words climb the tree together
        inside = at != root
        steps.append((np.where(inside, parents[at] - size, -1), codes[at]))
        at = np.where(inside, parents[at], root)
    if not steps:
        return np.zeros(size + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
    nodes, code = (np.stack(part[::-1], axis=1) for part in zip(*steps, strict=True))
    on_path = nodes >= 0
    starts = np.concatenate([[0], np.cumsum(on_path.sum(axis=1))]).astype(np.int64)
    signs = 2 * code[on_path].astype(np.float32) - 1
    return starts, nodes[on_path].astype(np.int32), signs


def _huffman_tree(counts):
    """Return parents and codes of leaves and inner nodes; the leaves' `counts` must ascend.

    Inner nodes too are made in ascending order, so the rarest nodes are at the heads of two queues.
    """
    size = len(counts)
    counts = counts + [0] * (size - 1)
    parents, codes = np.zeros(2 * size - 1, np.int64), np.zeros(2 * size - 1, np.int8)
    leaf, inner = 0, size
    for node in range(size, 2 * size - 1):
        for code in (0, 1):
            if leaf < size and (inner == node or counts[leaf] <= counts[inner]):
                rarest, leaf = leaf, leaf + 1
            else:
                rarest, inner = inner, inner + 1
            counts[node] += counts[rarest]
            parents[rarest], codes[rarest] = node, code
    return parents, codes
