"""Matrices as the kernels need them: rows of whole cache lines, padded with zeros."""

import numpy as np

from fastkeras.word2vec.training.settings import padded

RANGE = 1.0  # gensim's; word2vec.c has half of it (bench/word2vec_first_vectors.py)


def zero_rows(rows, width):
    """Return float32 zeros whose rows begin on cache lines; NumPy itself requests huge pages."""
    memory = np.empty(rows * width + 16, np.float32)
    memory.fill(0)
    skip = -memory.ctypes.data % 64 // 4
    return memory[skip : skip + rows * width].reshape(rows, width)


def new(input_rows, output_rows, vector_size, seed):
    """Return the input matrix, random, and the output matrix, zeros."""
    made = [zero_rows(rows, padded(vector_size)) for rows in (input_rows, output_rows)]
    draw(made[0][:, :vector_size], seed)
    return made


def padded_copy(matrix):
    """Return a copy whose rows are padded."""
    rows = zero_rows(len(matrix), padded(matrix.shape[1]))
    rows[:, : matrix.shape[1]] = matrix
    return rows


def draw(matrix, seed):
    """Fill with uniform numbers between ±RANGE / vector_size, block by block."""
    rng, width = np.random.default_rng(seed), 2 * RANGE / matrix.shape[1]
    for first in range(0, len(matrix), 4096):
        block = matrix[first : first + 4096]
        block[:] = (rng.random(block.shape, np.float32) - np.float32(0.5)) * np.float32(width)
