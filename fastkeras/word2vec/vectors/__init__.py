"""Words and their vectors: to query, compare, write to files and read."""

from fastkeras.word2vec.vectors.vectors import Vectors, unit_rows

__all__ = ["Vectors", "unit_rows"]
