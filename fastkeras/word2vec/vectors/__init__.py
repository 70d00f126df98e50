"""Words and their vectors: asked, compared, written to files and read."""

from fastkeras.word2vec.vectors.vectors import Vectors, unit_rows

__all__ = ["Vectors", "unit_rows"]
