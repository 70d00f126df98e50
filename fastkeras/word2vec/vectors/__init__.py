"""Words and their vectors: to query, compare, write to files and read."""

from fastkeras.word2vec.vectors.search import unit_rows
from fastkeras.word2vec.vectors.vectors import Vectors

__all__ = ["Vectors", "unit_rows"]
