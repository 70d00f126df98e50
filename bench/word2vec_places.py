"""How the quality of skip-gram falls with the places of a text that a GPU trains at once.

    python bench/word2vec_places.py 1 132 264 1024

Simulates the engine `cupy` on a CPU: in each step all places train one window, from the same output
rows; each holds rows of the input matrix while their words are in reach, and gives them back by
adding what has changed. The text is the dictionary of word2vec_english.py.
"""

import sys
from collections import Counter

import numba
import numpy as np
import word2vec_english

from fastkeras.word2vec.evaluation import evaluate_analogies, evaluate_word_pairs
from fastkeras.word2vec.training import matrices, sampling
from fastkeras.word2vec.training.settings import CHUNK, Settings, tables_of
from fastkeras.word2vec.vectors import Vectors

EPOCHS, SIZE, RATE, SAMPLE, MIN_COUNT, SEED = 3, 100, 0.025, 1e-4, 5, 1
SETTINGS = Settings(shared_negatives=True)
REACH, OUTPUTS = SETTINGS.window, SETTINGS.negative + 1


@numba.njit(fastmath=True)
def train(words, contexts, outputs, rates, inputs, output_matrix, places):
    """One epoch; `contexts` has the items of each window, `outputs` its rows, −1 for none."""
    items, size, span = len(words), inputs.shape[1], 2 * REACH + 1
    rows = np.zeros((places, span, size), np.float32)
    loaded = np.zeros_like(rows)
    held, uses = np.full((places, span), -1), np.zeros((places, span), np.int64)
    slot_of = np.zeros((places, span), np.int64)
    changes = np.zeros((places, OUTPUTS, size), np.float32)
    loss, predictions = 0.0, 0
    for step in range(-2 * REACH, items // places + REACH + 2):
        changes[:] = 0
        for p in range(places):
            first, last = items * p // places, items * (p + 1) // places
            low, high = max(first - REACH, 0), min(last + REACH, items)
            item = first + step
            leaving, entering = item - REACH - 1, item + REACH
            if low <= leaving < high:
                slot = slot_of[p, leaving % span]
                uses[p, slot] -= 1
                if uses[p, slot] == 0:
                    inputs[held[p, slot]] += rows[p, slot] - loaded[p, slot]
                    held[p, slot] = -1
            if low <= entering < high:
                slot = -1
                for k in range(span):
                    if held[p, k] == words[entering]:
                        slot = k
                if slot >= 0:
                    inputs[held[p, slot]] += rows[p, slot] - loaded[p, slot]
                else:
                    slot = int(np.argmin(held[p]))
                    held[p, slot], uses[p, slot] = words[entering], 0
                rows[p, slot] = inputs[words[entering]]
                loaded[p, slot] = rows[p, slot]
                uses[p, slot] += 1
                slot_of[p, entering % span] = slot
            if not first <= item < last or contexts[item, 0] < 0:
                continue
            moved = np.zeros((2 * REACH, size), np.float32)
            for c in range(2 * REACH):
                if contexts[item, c] < 0:
                    break
                v = rows[p, slot_of[p, contexts[item, c] % span]]
                predictions += 1
                for j in range(OUTPUTS):
                    if outputs[item, j] < 0:
                        continue
                    u = output_matrix[outputs[item, j]]
                    sign = np.float32(-1.0 if j == 0 else 1.0)
                    y = sign * np.sum(u * v)
                    loss += np.log1p(np.exp(-abs(y))) + max(y, 0)
                    error = -sign * rates[item] / (1 + np.exp(-y))
                    moved[c] += error * u
                    changes[p, j] += error * v
            for c in range(2 * REACH):
                if contexts[item, c] >= 0:
                    rows[p, slot_of[p, contexts[item, c] % span]] += moved[c]
        for p in range(places):
            item = items * p // places + step
            if items * p // places <= item < items * (p + 1) // places:
                for j in range(OUTPUTS):
                    if outputs[item, j] >= 0:
                        output_matrix[outputs[item, j]] += changes[p, j]
    return loss / max(predictions, 1)


def items_of(ids, tables, key, epoch):
    """The arguments of `train`."""
    bits = sampling.bits_at(key, np.arange(len(ids)))
    kept = np.flatnonzero((ids >= 0) & sampling.stays(bits, tables.keep[np.maximum(ids, 0)]))
    sentences = np.cumsum(ids < 0)[kept]
    widths = sampling.window_of(bits[kept], REACH)
    steps = np.delete(np.arange(-REACH, REACH + 1), REACH)
    near = np.arange(len(kept))[:, None] + steps
    inside = np.clip(near, 0, len(kept) - 1)
    wrong = (near != inside) | (np.abs(steps) > widths[:, None])
    wrong |= sentences[inside] != sentences[:, None]
    contexts = -np.sort(-np.where(wrong, -1, near), axis=1)
    centers = ids[kept].astype(np.int64)
    noise = np.stack(
        [sampling.draw_noise(b, 0, SETTINGS.negative, tables.noise) for b in bits[kept]]
    )
    outputs = np.column_stack([centers, np.where(noise == centers[:, None], -1, noise)])
    done = (epoch * len(ids) + kept // CHUNK * CHUNK) / (EPOCHS * len(ids))
    return centers, contexts, outputs, (RATE * (1 - done)).astype(np.float32)


def main(places):
    lines = [line for line in word2vec_english.of_dictionary() if len(line) > 1]
    counted = Counter(word for line in lines for word in line)
    names = [word for word, count in counted.most_common() if count >= MIN_COUNT]
    index = {word: i for i, word in enumerate(names)}
    order = np.random.default_rng(0).permutation(len(lines))
    ids = [i for n in order for i in (*(index[w] for w in lines[n] if w in index), -1)]
    ids, counts = np.array(ids), np.array([counted[word] for word in names])
    tables = tables_of(counts, SETTINGS, SAMPLE)
    made = [m[:, :SIZE].copy() for m in matrices.new(len(names), len(names), SIZE, SEED)]
    losses = []
    for epoch in range(EPOCHS):
        of_epoch = items_of(ids, tables, sampling.key_of(SEED, epoch), epoch)
        losses.append(round(train(*of_epoch, *made, places), 4))
    vectors = Vectors(names, made[0])
    wordsim, simlex, analogies = word2vec_english.judged()
    scores = [evaluate_word_pairs(vectors, pairs).spearman for pairs in (wordsim, simlex)]
    scores.append(100 * evaluate_analogies(vectors, analogies).accuracy)
    print(f"{places} places: losses {losses}, {', '.join(f'{score:.3f}' for score in scores)}")


if __name__ == "__main__":
    for number in sys.argv[1:]:
        main(int(number))
