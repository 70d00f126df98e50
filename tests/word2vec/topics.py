"""A corpus of sentences about topics, whose words become neighbours; small models of it."""

import numpy as np

from fastkeras.word2vec import Word2Vec
from fastkeras.word2vec.vocabulary import Vocabulary

QUIET = {"progress": False}


def planted(rng, topics=6, words_of_topic=8, sentences=1500, length=12):
    """A corpus of sentences about one topic each; the topic of each word."""
    words = topics * words_of_topic
    of_sentence = rng.integers(topics, size=sentences)
    ids = rng.integers(words_of_topic, size=(sentences, length)) * topics + of_sentence[:, None]
    ids = np.concatenate([ids, np.full((sentences, 1), -1)], axis=1).ravel()
    counts = np.bincount(ids[ids >= 0], minlength=words)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(words + 1, np.int32)
    rank[order], rank[-1] = np.arange(words), -1
    topic = order % topics
    return rank[ids], Vocabulary([f"word{i}" for i in order], counts[order]), topic


def share_of_neighbours_in_topic(vectors, topic):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    return np.mean(topic[similarity.argmax(axis=1)] == topic)


def small(**more):
    return Word2Vec(**{"vector_size": 12, "sample": 0, "window": 3, "num_threads": 1, **more})
