"""Probable words and probabilities of sentences, by the definition, and beside gensim's."""

import itertools

import numpy as np
import pytest

from fastkeras.word2vec import Word2Vec
from fastkeras.word2vec.training.sampling import huffman_paths
from fastkeras.word2vec.training.settings import BOTH, TREE

SENTENCES = [s.split() for s in ["a b c a d", "b a c e", "c c d a b e"] * 20]


def trained(**options):
    options = {"vector_size": 6, "min_count": 1, "epochs": 3, "sample": 0, **options}
    return Word2Vec(**options).fit(SENTENCES, progress=False)


@pytest.mark.parametrize(
    "options", [{}, {"objective": "cbow"}, {"loss": "sampled_softmax"}, {"loss": BOTH}]
)
def test_probable_words(options):
    model = trained(**options)
    found = model.predict_output_word(["a", "unknown", "b"], topn=9)
    hidden = (model.vectors["a"].astype("f8") + model.vectors["b"]) / 2
    logits = np.exp([row @ hidden for row in model.output_embeddings[:5].astype("f8")])
    expected = dict(zip(model.vectors.words, logits / logits.sum(), strict=True))
    assert sum(p for _, p in found) == pytest.approx(1)
    assert [word for word, _ in found] == sorted(expected, key=expected.get, reverse=True)
    for word, probability in found:
        assert probability == pytest.approx(expected[word], rel=1e-5)
    assert model.predict_output_word("a", 2) == model.predict_output_word(["a"])[:2]


def test_probable_words_of_subwords():
    model = trained(subwords=True, buckets=50)
    assert len(model.predict_output_word(["abc"], 3)) == 3  # it has n-grams that are known


@pytest.mark.parametrize("loss", [TREE, BOTH])
@pytest.mark.parametrize("objective", ["skipgram", "cbow"])
@pytest.mark.parametrize("window", [1, 3, None])
def test_scores_are_log_probabilities(objective, window, loss):
    model = trained(loss=loss, objective=objective, window=window)
    starts, nodes, signs = huffman_paths(model.vocabulary.counts)
    vectors, outputs = model.vectors, model.output_embeddings[-4:].astype("f8")
    assert len(model.output_embeddings) == (4 if loss == TREE else 9)

    def probability(word, hidden):
        product = 1.0
        for at in range(starts[word], starts[word + 1]):
            product *= 1 / (1 + np.exp(signs[at] * (outputs[nodes[at]] @ hidden)))
        return product

    for context in vectors:  # the probabilities of all words are 1 together
        total = sum(probability(word, vectors[context]) for word in range(len(vectors)))
        assert total == pytest.approx(1)
    sentences = [["a", "b", "unknown", "c", "d", "a"], "e a", [], ["a"], ["unknown"]]
    expected = []
    for sentence in sentences:
        words = [word for word in (sentence.split() if isinstance(sentence, str) else sentence)]
        words = [word for word in words if word in vectors]
        score = 0.0
        for i, word in enumerate(words):
            near = range(len(words)) if window is None else range(i - window, i + window + 1)
            contexts = [
                vectors[words[j]].astype("f8") for j in near if 0 <= j < len(words) and j != i
            ]
            hiddens = [np.mean(contexts, 0)] if objective == "cbow" and contexts else contexts
            score += sum(np.log(probability(vectors.index[word], hidden)) for hidden in hiddens)
        expected.append(score)
    np.testing.assert_allclose(model.score(sentences), expected, rtol=1e-9)
    assert model.score(["a b", "b a"]).shape == (2,) and model.score([]).shape == (0,)


def test_scores_tell_texts_apart():
    model = trained(loss="hierarchical_softmax", epochs=30)
    of_seen, of_others = model.score([["a", "b", "c", "a"], ["e", "d", "e", "d"]])
    assert of_seen > of_others


def test_what_cannot_be_predicted_is_named():
    model, tree = trained(), trained(loss="hierarchical_softmax")
    with pytest.raises(ValueError, match="predict_output_word needs negative_sampling"):
        tree.predict_output_word(["a"])
    with pytest.raises(ValueError, match="score needs hierarchical_softmax"):
        model.score([["a"]])
    with pytest.raises(KeyError, match="no known word"):
        model.predict_output_word(["unknown"])
    with pytest.raises(ValueError, match="topn=0"):
        model.predict_output_word(["a"], topn=0)
    for call in Word2Vec().score, Word2Vec().predict_output_word:
        with pytest.raises(ValueError, match="call fit first"):
            list(itertools.chain(call(["a"])))
