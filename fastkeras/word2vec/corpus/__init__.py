"""Corpora that can be read again and again, as words and as ids."""

from fastkeras.word2vec.corpus.corpus import Corpus, encode

__all__ = ["Corpus", "encode"]
