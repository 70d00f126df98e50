"""Models of fastText: read as vectors or to train on, and written for fastText and gensim."""

from fastkeras.word2vec.fasttext.models import load_model, load_vectors, save

__all__ = ["load_model", "load_vectors", "save"]
