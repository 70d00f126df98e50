"""Scores of vectors, by hand and against SciPy's and gensim's."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkeras.word2vec import evaluation
from fastkeras.word2vec.evaluation import evaluate_analogies, evaluate_word_pairs
from fastkeras.word2vec.vectors import Vectors
from fastkeras.word2vec.vectors.gensim_vectors import to_gensim

# Vectors in a plane, so that cosines are those of the angles between them.
ANGLES = {"north": 0, "North": 90, "northern": 10, "east": 90, "eastern": 100, "west": 180}
CIRCLE = Vectors(ANGLES, np.array([[np.cos(a), np.sin(a)] for a in np.radians([*ANGLES.values()])]))


def written(folder, text):
    path = folder / "file.txt"
    path.write_text(text)
    return path


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_spearman_is_scipys(pairs):
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    a, b = np.array(pairs, float).T
    ours = evaluation._pearson(evaluation._ranks(a), evaluation._ranks(b))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(ours)
        return
    np.testing.assert_allclose(ours, stats.spearmanr(a, b).statistic, atol=1e-12)
    np.testing.assert_allclose(evaluation._pearson(a, b), stats.pearsonr(a, b).statistic, atol=1e-9)


def test_ranks_by_hand():
    assert evaluation._ranks([30, 10, 30, 20, 30, 5]).tolist() == [5, 2, 5, 3, 5, 1]


@pytest.mark.parametrize("separator", ["\t", ",", " ", ", "])
def test_word_pairs(tmp_path, separator):
    lines = ["one two score", "# by hand", "north northern 9", "", "NORTH east 5.0", "east west 5"]
    lines += ["north west 1", "north south 7"]
    path = written(tmp_path, "\n".join(line.replace(" ", separator) for line in lines))
    cosines = np.cos(np.radians([10, 90, 90, 180]))
    scores = evaluate_word_pairs(CIRCLE, path)
    assert (scores.pairs, scores.unknown) == (4, 1)
    # Two cosines of 0, with equal scores, may differ by rounding, and so in their ranks.
    assert scores.spearman == pytest.approx(1, abs=0.06)
    assert scores.pearson == pytest.approx(np.corrcoef(cosines, [9, 5, 5, 1])[0, 1], abs=1e-12)
    counted = evaluate_word_pairs(CIRCLE, path, count_unknown=True)
    assert (counted.pairs, counted.unknown) == (5, 1)
    assert counted.pearson == pytest.approx(
        np.corrcoef([*cosines, 0], [9, 5, 5, 1, 7])[0, 1], abs=1e-12
    )
    as_written = evaluate_word_pairs(CIRCLE, path, case_insensitive=False)
    assert (as_written.pairs, as_written.unknown) == (3, 2)
    restricted = evaluate_word_pairs(CIRCLE, path, restrict_vocab=5)  # without west
    assert (restricted.pairs, restricted.unknown) == (2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("north east 5\nnorth 5\n", "line 2: 'north 5' is not two words and a number"),
        ("north east 5\nnorth east x\n", "line 2: 'north east x' is not"),
        ("north north-east east 5", "line 1: 'north north-east east 5' is not"),
        ("up down 3\nleft right 4", "both words are known of none of its 2 pairs"),
    ],
)
def test_errors_of_word_pairs(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(f"{path}") + ".*" + re.escape(message)):
        evaluate_word_pairs(CIRCLE, path)


def planted(rng, groups=12, relations=3, noise=0.0):
    """Make a word's vector that of its group plus that of its relation: analogies hold exactly."""
    of_group = rng.normal(size=(groups, 24))
    of_relation = rng.normal(size=(relations, 24))
    words = [f"g{g}r{r}" for g in range(groups) for r in range(relations)]
    matrix = (of_group[:, None] + of_relation).reshape(len(words), -1)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    matrix += noise * rng.normal(size=matrix.shape)
    lines = []
    for r, s in itertools.combinations(range(relations), 2):
        lines.append(f": relation {r} {s}")
        for g, h in itertools.permutations(range(groups), 2):
            lines.append(f"g{g}r{r} g{g}r{s} g{h}r{r} g{h}r{s}")
    return Vectors(words, matrix), "\n".join(lines)


def plain_answer(vectors, question, restrict_vocab):
    """Answer by the definition, one word at a time."""
    unit = [vector / np.linalg.norm(vector) for vector in vectors.matrix.astype(np.float64)]
    a, b, c = (unit[vectors.index[word]] for word in question[:3])
    words = [word for word in vectors.words[:restrict_vocab] if word not in question[:3]]
    return max(words, key=lambda word: unit[vectors.index[word]] @ (b - a + c))


@pytest.mark.parametrize("noise", [0, 0.15])
def test_analogies_are_answered_as_the_definition_says(tmp_path, rng, noise):
    vectors, text = planted(rng, noise=noise)
    scores = evaluate_analogies(vectors, written(tmp_path, text), restrict_vocab=33)
    section, correct, totals = None, {}, {}
    for line in text.split("\n"):
        if line.startswith(":"):
            section = line[2:]
            correct[section] = totals[section] = 0
            continue
        question = line.split()
        if all(word in vectors.words[:33] for word in question):
            totals[section] += 1
            correct[section] += plain_answer(vectors, question, 33) == question[3]
    assert scores.sections == {name: (correct[name], totals[name]) for name in totals}
    assert scores.questions == sum(totals.values()) == 3 * 11 * 10
    assert scores.unknown == 3 * 12 * 11 - 330
    assert scores.correct == sum(correct.values())
    assert scores.accuracy == scores.correct / scores.questions
    assert (scores.accuracy > 0.9) if noise == 0 else (0.1 < scores.accuracy < 0.9)
    counted = evaluate_analogies(vectors, tmp_path / "file.txt", 33, count_unknown=True)
    assert (counted.correct, counted.questions) == (scores.correct, 3 * 12 * 11)


def test_case(tmp_path):
    vectors, text = planted(np.random.default_rng(0), 4, 2)
    # A copy of each word in capitals lies nearest to the question's own words.
    words = [*vectors.words, *(word.upper() for word in vectors.words)]
    both = Vectors(words, np.concatenate([vectors.matrix, vectors.matrix]))
    path = written(tmp_path, text.replace("g", "G"))
    assert evaluate_analogies(both, path)[:4] == evaluate_analogies(vectors, path)[:4]
    assert evaluate_analogies(vectors, path).questions == 12
    with pytest.raises(ValueError, match="none of its 12 questions"):
        evaluate_analogies(vectors, path, case_insensitive=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b c d", "line 1: 'a b c d' is not four words after a line `: section`"),
        (": s\na b c", "line 2: 'a b c' is not four words"),
        (": s\na b c d", "all words are known of none of its 1 questions"),
    ],
)
def test_errors_of_analogies(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(f"{path}") + ".*" + re.escape(message) + "$"):
        evaluate_analogies(CIRCLE, path)


@pytest.fixture(scope="module")
def gensim_data():
    gensim = pytest.importorskip("gensim", reason="gensim is not installed")
    return Path(gensim.__file__).parent / "test" / "test_data"


@pytest.fixture(scope="module")
def vectors_of_data(gensim_data):
    """Vectors for most words of gensim's files, planted so that many analogies are answered."""
    rng = np.random.default_rng(0)
    vectors = {}
    for line in (gensim_data / "questions-words.txt").read_text().splitlines():
        if line.startswith(":"):
            offset = rng.normal(size=50)
            continue
        a, b, *_ = line.split()
        if a not in vectors:
            vectors[a] = rng.normal(size=50)
        vectors.setdefault(b, vectors[a] + offset + 0.5 * rng.normal(size=50))
    for name in "wordsim353.tsv", "simlex999.txt":
        for line in (gensim_data / name).read_text().splitlines()[2:]:
            for word in line.split("\t")[:2]:
                vectors.setdefault(word, rng.normal(size=50))
    words = rng.permutation(list(vectors)).tolist()
    words += [word.swapcase() for word in words[:300] if word.swapcase() not in vectors]
    matrix = np.stack([vectors.get(w, vectors.get(w.swapcase())) for w in words])
    return Vectors(words, (matrix + 0.01 * rng.normal(size=matrix.shape)).astype(np.float32))


@pytest.mark.parametrize("name", ["wordsim353.tsv", "simlex999.txt"])
@pytest.mark.parametrize("case_insensitive", [True, False])
@pytest.mark.parametrize("count_unknown", [True, False])
def test_word_pairs_are_gensims(
    gensim_data, vectors_of_data, name, case_insensitive, count_unknown
):
    path = gensim_data / name
    pearson, spearman, unknown = to_gensim(vectors_of_data).evaluate_word_pairs(
        str(path),
        restrict_vocab=1500,
        case_insensitive=case_insensitive,
        dummy4unknown=count_unknown,
    )
    ours = evaluate_word_pairs(vectors_of_data, path, 1500, case_insensitive, count_unknown)
    assert ours.spearman == pytest.approx(spearman[0], abs=1e-6)
    assert ours.pearson == pytest.approx(pearson[0], abs=1e-6)
    total = ours.pairs if count_unknown else ours.pairs + ours.unknown
    assert 100 * ours.unknown / total == pytest.approx(unknown)
    assert ours.unknown > 0 and ours.pairs > 100


@pytest.mark.parametrize("case_insensitive", [True, False])
def test_analogies_are_gensims(tmp_path, gensim_data, vectors_of_data, case_insensitive):
    lines = (gensim_data / "questions-words.txt").read_text().splitlines()
    lines = [line for i, line in enumerate(lines) if line.startswith(":") or i % 20 == 0]
    path = written(tmp_path, "\n".join(lines))
    accuracy, sections = to_gensim(vectors_of_data).evaluate_word_analogies(
        str(path), restrict_vocab=2000, case_insensitive=case_insensitive
    )
    ours = evaluate_analogies(vectors_of_data, path, 2000, case_insensitive)
    assert ours.accuracy == accuracy
    assert 0.1 < accuracy < 0.95
    theirs = {
        each["section"]: (len(each["correct"]), len(each["correct"]) + len(each["incorrect"]))
        for each in sections[:-1]
    }
    assert ours.sections == {name: counts for name, counts in theirs.items() if counts[1]}
    assert ours.unknown > 0
