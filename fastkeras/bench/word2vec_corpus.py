"""A text to train on: words as frequent as in a language, some of which have a planted meaning.

A planted word `r3c7` occurs in phrases with words that stand for its row 3 and words that stand for
its column 7, so r3c7 is to r3c2 as r5c7 is to r5c2. All other words are noise from Zipf's law.
"""

from itertools import product

import numpy as np

from fastkeras._files import replacing

NOISE_WORDS, EXPONENT, SHIFT = 62_000, 1.05, 2.7  # Zipf's law as Mandelbrot wrote it
ROWS, COLUMNS, SIGNS = 12, 10, 4  # signs: words that stand for a row or a column
PHRASE, LINE = 12, 600  # words
SHARE_OF_PHRASES = 0.1


def write(path, words, seed=0):
    """Write `words` words of text, rounded up to whole lines; return the size in bytes."""
    rng = np.random.default_rng(seed)
    weights = (np.arange(NOISE_WORDS) + SHIFT) ** -EXPONENT
    ends = np.cumsum(weights / weights.sum())
    names = [f"w{i}" for i in range(NOISE_WORDS)]
    names += [f"r{r}c{c}" for r, c in product(range(ROWS), range(COLUMNS))]
    names += [f"{kind}{i}s{s}" for kind, n in (("r", ROWS), ("c", COLUMNS)) for i in range(n)
              for s in range(SIGNS)]  # fmt: skip
    names = np.array(names)
    with replacing(path, "w", encoding="ascii") as file:
        for written in range(0, words, 1000 * LINE):
            text = np.minimum(np.searchsorted(ends, rng.random(1000 * LINE)), NOISE_WORDS - 1)
            phrases = text.reshape(-1, PHRASE)
            chosen = np.flatnonzero(rng.random(len(phrases)) < SHARE_OF_PHRASES)
            phrases[chosen] = rng.permuted(planted(len(chosen), rng), axis=1)
            lines = -(-(words - written) // LINE)
            for line in names[text.reshape(-1, LINE)[:lines]]:
                file.write(" ".join(line.tolist()) + "\n")
        return file.tell()


def planted(count, rng):
    """Return phrases: a planted word twice, signs of its row and of its column."""
    row, column = rng.integers(ROWS, size=count), rng.integers(COLUMNS, size=count)
    first_sign = NOISE_WORDS + ROWS * COLUMNS
    word = np.repeat((NOISE_WORDS + row * COLUMNS + column)[:, None], 2, axis=1)
    signs = rng.integers(SIGNS, size=(2, count, (PHRASE - 2) // 2))
    of_row = first_sign + row[:, None] * SIGNS + signs[0]
    of_column = first_sign + (ROWS + column[:, None]) * SIGNS + signs[1]
    return np.concatenate([word, of_row, of_column], axis=1)


def analogies(vectors, questions=2000, seed=1):
    """Return how many planted analogies the vectors (words, matrix) solve, in percent.

    The answer is searched among all words.
    """
    rng = np.random.default_rng(seed)
    words, matrix = vectors
    unit = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-30)
    index = {word: i for i, word in enumerate(words)}
    a, b, c, answer = [], [], [], []
    while len(answer) < questions:
        (r, q), (s, t) = rng.integers(ROWS, size=2), rng.integers(COLUMNS, size=2)
        if r != q and s != t:
            for of, (i, j) in zip((a, b, c, answer), ((r, s), (r, t), (q, s), (q, t)), strict=True):
                of.append(index[f"r{i}c{j}"])
    scores = (unit[b] - unit[a] + unit[c]) @ unit.T
    for given in (a, b, c):
        scores[np.arange(questions), given] = -np.inf
    return 100 * float(np.mean(scores.argmax(1) == answer))
