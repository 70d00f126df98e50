"""Pairs of words that are joined to one."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkeras.word2vec import phrases as module
from fastkeras.word2vec.corpus import Corpus
from fastkeras.word2vec.phrases import Phrases, find_phrases
from fastkeras.word2vec.vocabulary import build

SENTENCES = st.lists(st.lists(st.sampled_from("abcd"), max_size=8), min_size=1, max_size=30)


def plain_scores(sentences, scoring, min_count):
    """Compute the formulas, one pair at a time."""
    words = Counter(word for sentence in sentences for word in sentence)
    pairs = Counter(pair for s in sentences for pair in itertools.pairwise(s))
    total = words.total()
    scores = {}
    for (a, b), count in pairs.items():
        if count >= min_count:
            if scoring == "original":
                scores[a, b] = (count - min_count) * total / (words[a] * words[b])
            else:
                p = count / total
                scores[a, b] = math.log(p * total**2 / (words[a] * words[b])) / -math.log(p)
    return scores


@pytest.mark.parametrize("scoring", ["original", "npmi"])
@given(sentences=SENTENCES, min_count=st.integers(1, 3), at_a_time=st.integers(1, 9))
def test_scores_are_those_of_the_formulas(scoring, sentences, min_count, at_a_time):
    if not any(sentences):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "IDS_AT_A_TIME", at_a_time)
        found = find_phrases(sentences, scoring, -math.inf, min_count)
    expected = plain_scores(sentences, scoring, min_count)
    assert found.scores == pytest.approx(expected, rel=1e-9, abs=1e-12)
    scores = list(found.scores.values())
    assert scores == sorted(scores, reverse=True)
    threshold = float(np.median(scores)) if scores else 0
    above = find_phrases(sentences, scoring, threshold, min_count)
    assert above.scores == {pair: s for pair, s in found.scores.items() if s > threshold}


def plain_connected(sentences, connectors):
    """Count phrases word by word: a word, connectors, a word."""
    counts = Counter()
    for sentence in sentences:
        start = None
        for i, word in enumerate(sentence):
            if word not in connectors:
                if start is not None:
                    counts[tuple(sentence[start : i + 1])] += 1
                start = i
    return counts


@given(sentences=SENTENCES, connectors=st.sets(st.sampled_from("cdx")), at_a_time=st.integers(1, 9))
def test_connectors_stand_inside(sentences, connectors, at_a_time):
    if not any(sentences):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "IDS_AT_A_TIME", at_a_time)
        found = find_phrases(
            sentences, lambda first, second, pair, *_: pair / 1, 1.0, 1, connector_words=connectors
        )
    counts = plain_connected(sentences, connectors)
    assert found.scores == {phrase: n for phrase, n in counts.items() if n > 1}
    for sentence in sentences:  # joined from left to right
        expected, i = [], 0
        while i < len(sentence):
            ends = range(i + 2, len(sentence) + 1)
            end = next((e for e in ends if tuple(sentence[i:e]) in found.scores), i + 1)
            expected.append("_".join(sentence[i:end]))
            i = end
        assert found.join(sentence) == expected


def test_connectors_as_gensim_joins_them():
    gensim = pytest.importorskip("gensim.models.phrases", reason="gensim is not installed")
    sentences = ["the bank of america", "a bank of america in new york", "new york of old"] * 9
    sentences = [sentence.split() for sentence in sentences]
    theirs = gensim.Phrases(
        sentences, 1, 0.4, scoring="npmi", connector_words=module.ENGLISH_CONNECTOR_WORDS
    )
    ours = find_phrases(sentences, "npmi", 0.4, 1, connector_words=module.ENGLISH_CONNECTOR_WORDS)
    assert module.ENGLISH_CONNECTOR_WORDS == gensim.ENGLISH_CONNECTOR_WORDS
    assert {"_".join(phrase): pytest.approx(score) for phrase, score in ours.scores.items()} == (
        theirs.export_phrases()
    )
    for sentence in sentences[:3]:
        assert ours.join(sentence) == theirs[sentence]
    assert ours.join(sentences[1]) == ["a", "bank_of_america", "in", "new_york"]


def test_connectors_are_kept_in_files(tmp_path):
    phrases = Phrases({("bank", "of", "the", "south"): 2.5, ("new", "york"): 1.0})
    phrases.save(tmp_path / "phrases.tsv")
    assert Phrases.load(tmp_path / "phrases.tsv").scores == phrases.scores


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scoring": len}, "threshold=None must be a number"),
        ({"scoring": lambda *_: 1.0, "threshold": 0}, r"shape \(\); it must have a score"),
        ({"connector_words": "of"}, "connector_words='of' must be a list of strings"),
        ({"connector_words": [3]}, "connector_words"),
    ],
)
def test_bad_scorers_and_connectors(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        find_phrases(["a b", "a b"], min_count=1, **given)


def test_planted_phrases_are_found(rng):
    words = [f"w{i}" for i in range(200)]
    sentences = [rng.choice(words, 12).tolist() for _ in range(1500)]
    for sentence in sentences[::3]:
        sentence[4:6] = ["new", "york"]
    assert list(find_phrases(sentences, "npmi").scores) == [("new", "york")]
    best = find_phrases(sentences, "original", 10.0)
    assert list(best.scores) == [("new", "york")]
    joined = Corpus(best.apply(sentences))
    assert build(joined).index["new_york"] == 0
    assert list(joined) == list(joined)  # it can be iterated over again
    assert sum(map(len, joined)) == sum(map(len, sentences)) - 500


def test_words_with_a_rare_word_between_them_are_no_pair():
    sentences = [["new", f"rare{i}", "york"] for i in range(20)]
    assert len(find_phrases(sentences, threshold=-math.inf)) == 0


def test_files_and_a_second_round(tmp_path, rng):
    sentences = rng.choice([f"w{i}" for i in range(50)], (1000, 9)).astype("U4")
    sentences[::4, 3:6] = ["new", "york", "city"]
    path = tmp_path / "news.txt"
    path.write_text("\n".join(map(" ".join, sentences)))
    once = find_phrases(path, "npmi", 0.9)
    assert once.scores.keys() == {("new", "york"), ("york", "city")}
    twice = find_phrases(once.apply(path), "npmi", 0.9)
    assert list(twice.scores) == [("new_york", "city")]
    words = [word for sentence in twice.apply(once.apply(path)) for word in sentence]
    assert words.count("new_york_city") == 250 and "city" not in words


def test_a_full_table_drops_rare_pairs(monkeypatch):
    monkeypatch.setattr(module, "IDS_AT_A_TIME", 30)
    sentences = [["often", "here"]] * 20 + [[f"w{i}", f"v{i}"] for i in range(40)]
    sentences += [["often", "here"]] * 20
    found = find_phrases(sentences, threshold=-math.inf, min_count=1, table_size=100)
    assert len(found) == 41
    pairs, counts, _ = module._count_pairs(np.arange(-1, 80), np.zeros(101, bool), 10)
    assert len(pairs) == len(counts) <= 10
    ids = np.array([0, 1, -1] * 20 + [w for i in range(2, 60, 2) for w in (i, i + 1, -1)])
    pairs, counts, _ = module._count_pairs(ids, np.zeros(100 + 1, bool), 10)
    assert pairs.tolist()[0] == 1 and counts.tolist()[0] == 20


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("new york city", "new_york city"),  # from left to right, without overlaps
        ("in new york", "in new_york"),
        ("york city new", "york_city new"),
        ("new", "new"),
        ("", ""),
    ],
)
def test_join(words, expected):
    phrases = Phrases({("new", "york"): 1.0, ("york", "city"): 2.0})
    assert " ".join(phrases.join(words.split())) == expected


def test_save_and_load(tmp_path):
    path = tmp_path / "phrases.tsv"
    phrases = Phrases({("new", "york"): 1 / 3, ("世", "界 "): 2e30})
    phrases.save(path)
    assert Phrases.load(path).scores == phrases.scores
    assert list(Phrases.load(path).scores) == list(phrases.scores)
    path.write_text("new\tyork\t1\nnew york\n")
    with pytest.raises(ValueError, match="line 2: 'new york' is not two words and a score"):
        Phrases.load(path)
    with pytest.raises(ValueError, match="has a tab or line feed"):
        Phrases({("a\t", "b"): 1.0}).save(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scoring": "pmi"}, r"scoring='pmi' must be one of \['npmi', 'original'\]"),
        ({"min_count": 0}, "min_count=0 must be at least 1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        find_phrases(["a b"], **options)
