"""Word2Vec with hand-derived gradients: corpora, training, vectors and their evaluation."""

from importlib import import_module

_WHERE = {
    "Doc2Vec": "fastkeras.word2vec.documents",
    "Vectors": "fastkeras.word2vec.vectors.vectors",
    "Vocabulary": "fastkeras.word2vec.vocabulary",
    "Windows": "fastkeras.word2vec.windows",
    "Word2Vec": "fastkeras.word2vec.training.trainer",
    "to_keras_embedding": "fastkeras.word2vec.layers.embedding",
    "vectors_of": "fastkeras.word2vec.layers.embedding",
}

__all__ = sorted(_WHERE)


def __getattr__(name):  # who imports only an engine need not load the trainer
    if name not in _WHERE:
        raise AttributeError(f"module 'fastkeras.word2vec' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__():
    return __all__
