"""What a trained model predicts: words from their contexts, and how probable sentences are."""

from collections.abc import Iterable

import numpy as np

from fastkeras.word2vec.arguments import integer, shown, strings
from fastkeras.word2vec.training import sampling
from fastkeras.word2vec.training.settings import BOTH, TREE, first_node


def likely_words(model, context_words, topn):
    """Return the most probable words of a window; see `Word2Vec.predict_output_word`."""
    integer("topn", topn, 1, None)
    if model.config["loss"] == TREE:
        raise ValueError(
            "loss='hierarchical_softmax' has no output vectors of words: predict_output_word needs "
            "negative_sampling or sampled_softmax"
        )
    vectors = model.vectors
    is_one = isinstance(context_words, str)
    words = [context_words] if is_one else strings("context_words", context_words)
    if not any(map(vectors._has_vector, words)):
        raise KeyError(f"context_words has no known word: {shown(words)}")
    mean = vectors.mean_vector(words, pre_normalize=False)
    logits = (model.output_embeddings[: len(vectors)] @ mean).astype(np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    best = np.argsort(-probabilities, kind="stable")[:topn]
    return [(vectors.words[row], float(probabilities[row])) for row in best]


def log_probabilities(model, sentences):
    """Return the log-probability of each sentence; see `Word2Vec.score`."""
    if model.config["loss"] not in (TREE, BOTH):
        raise ValueError(
            f"loss={model.config['loss']!r} gives no probabilities that sum to 1: score needs "
            "hierarchical_softmax"
        )
    if isinstance(sentences, str | bytes) or not isinstance(sentences, Iterable):
        raise TypeError(f"sentences={shown(sentences)} must be a list of sentences")
    inputs = model.vectors.matrix.astype(np.float64)
    outputs = model.output_embeddings.astype(np.float64)
    starts, nodes, signs = sampling.huffman_paths(model.vocabulary.counts)
    nodes = nodes + first_node(len(model.vocabulary), model._settings)
    window, cbow = model.config["window"], model.config["objective"] == "cbow"
    index = model.vocabulary.index
    scores = []
    for sentence in sentences:
        words = sentence.split() if isinstance(sentence, str) else strings("sentences", sentence)
        ids = [index[word] for word in words if word in index]
        reach = len(ids) if window is None else window
        score = 0.0
        for place, word in enumerate(ids):
            contexts = ids[max(place - reach, 0) : place] + ids[place + 1 : place + 1 + reach]
            if not contexts:
                continue
            hidden = inputs[contexts].mean(0, keepdims=True) if cbow else inputs[contexts]
            path = slice(starts[word], starts[word + 1])
            # The loss of a branch is log(1 + exp(sign · x)).
            score -= np.logaddexp(0, signs[path] * (hidden @ outputs[nodes[path]].T)).sum()
        scores.append(score)
    return np.array(scores)
