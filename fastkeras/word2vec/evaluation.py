"""How good vectors are: by people's judgements of pairs of words, and by analogies.

The results equal gensim's from the same files; docstrings name the defaults that differ.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastkeras.word2vec.arguments import flag, instance, integer
from fastkeras.word2vec.corpus.text_files import lines_of
from fastkeras.word2vec.vectors import Vectors, unit_rows

if TYPE_CHECKING:
    from fastkeras.typing import FilePath

CANDIDATES = 5  # nearest words; the first that is no word of the question, in any case, answers it


class PairScores(NamedTuple):
    """What `evaluate_word_pairs` returns.

    Attributes:
        spearman: Spearman's coefficient of correlation.
        pearson: Pearson's.
        pairs: how many were scored.
        unknown: how many pairs have a word without a vector.
    """

    spearman: float
    pearson: float
    pairs: int
    unknown: int


class AnalogyScores(NamedTuple):
    """What `evaluate_analogies` returns.

    Attributes:
        accuracy: the share of right answers.
        correct: how many are right.
        questions: how many were scored.
        unknown: how many questions have a word without a vector.
        sections: dict, from the name of a section to its (correct, questions).
    """

    accuracy: float
    correct: int
    questions: int
    unknown: int
    sections: dict[str, tuple[int, int]]


def evaluate_word_pairs(
    vectors: Vectors,
    path: FilePath,
    restrict_vocab: int | None = 300_000,
    case_insensitive: bool = True,
    count_unknown: bool = False,
) -> PairScores:
    """Compare the cosines of pairs of words with how similar people find them.

    Args:
        vectors: `Vectors`.
        path: a UTF-8 file with a line `word, word, number` for each pair, separated by tabs, or
            commas, or spaces, such as WordSim-353 and SimLex-999. Lines that begin with `#`, empty
            lines, and a first line whose third field is not a number are skipped.
        restrict_vocab: use only the first so many words; None uses all.
        case_insensitive: treat words that differ only in case as one; it has the vector of the
            first of them.
        count_unknown: score pairs with an unknown word as a similarity of 0; otherwise they are
            left out of the coefficients, and only counted.

    Returns:
        `PairScores`: Spearman's coefficient (equal values get their mean rank), Pearson's, how many
        pairs were scored, and how many had an unknown word. The coefficients are NaN if all scores
        are equal.

    Raises:
        ValueError: a line has another form (the message names it), or no pair is known.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from fastkeras.word2vec import Vectors
        >>> vectors = Vectors(["cat", "dog", "car"], np.array([[1.0, 0], [1, 0.1], [0, 1]]))
        >>> with tempfile.NamedTemporaryFile("w") as file:
        ...     print("cat dog 9", "cat car 1", "dog car 2", sep=chr(10), file=file, flush=True)
        ...     evaluate_word_pairs(vectors, file.name).spearman
        1.0
    """
    count_unknown = flag("count_unknown", count_unknown)
    rows = _known(vectors, restrict_vocab, case_insensitive)
    people, cosines, unknown = [], [], 0
    for a, b, score in _pairs(path):
        pair = [rows.get(_folded(word, case_insensitive)) for word in (a, b)]
        if None in pair:
            unknown += 1
            if not count_unknown:
                continue
            cosines.append(0.0)
        else:
            cosines.append(float(np.prod(unit_rows(vectors.matrix[pair].astype("f8")), 0).sum()))
        people.append(score)
    if not people:
        raise ValueError(f"{path}: both words are known of none of its {unknown} pairs")
    spearman = _pearson(_ranks(people), _ranks(cosines))
    return PairScores(spearman, _pearson(people, cosines), len(people), unknown)


def evaluate_analogies(
    vectors: Vectors,
    path: FilePath,
    restrict_vocab: int | None = 30_000,
    case_insensitive: bool = True,
    count_unknown: bool = False,
) -> AnalogyScores:
    """Answer questions like "Athens is to Greece as Baghdad is to ...".

    The answer is the word nearest to `b − a + c`, each scaled to length 1, other than the three
    words themselves (3CosAdd; Mikolov et al. 2013, arXiv 1301.3781).

    Args:
        vectors: `Vectors`, the most frequent words first.
        path: a UTF-8 file in the form of `questions-words.txt`: four words a line, sections that
            begin with a line `: name`.
        restrict_vocab: use only the first so many words, in questions and answers: 30,000 as is
            usual with word2vec's own program (gensim's default is 300,000); None uses all.
        case_insensitive: treat words that differ only in case as one; it has the vector of the
            first of them.
        count_unknown: score questions with an unknown word as wrong; otherwise they are left out,
            and only counted.

    Returns:
        `AnalogyScores`: the share of right answers, their number, the number of questions, how
        many questions had an unknown word, and right answers and questions by section.

    Raises:
        ValueError: a line has another form (the message names it), or no question is known.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from fastkeras.word2vec import Vectors
        >>> words = ["man", "woman", "king", "queen", "apple"]
        >>> matrix = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1], [-1, -1, 0.0]])
        >>> with tempfile.NamedTemporaryFile("w") as file:
        ...     print(": family", "man king woman queen", sep=chr(10), file=file, flush=True)
        ...     evaluate_analogies(Vectors(words, matrix), file.name).accuracy
        1.0
    """
    count_unknown = flag("count_unknown", count_unknown)
    rows = _known(vectors, restrict_vocab, case_insensitive)
    names, questions, unknown = [], [], 0
    for name, words in _questions(path):
        question = [rows.get(_folded(word, case_insensitive), -1) for word in words]
        if -1 in question:
            unknown += 1
            if not count_unknown:
                continue
        names.append(name)
        questions.append(question)
    if not questions:
        raise ValueError(f"{path}: all words are known of none of its {unknown} questions")
    right = np.zeros(len(questions), bool)
    questions = np.array(questions)
    known = (questions >= 0).all(1)
    if known.any():
        same = np.arange(len(vectors))  # for each word, the row that stands for it in any case
        for i, word in enumerate(vectors.words[:restrict_vocab]):
            same[i] = rows[_folded(word, case_insensitive)]
        right[known] = _right(vectors, questions[known], same, restrict_vocab)
    sections: dict[str, tuple[int, int]] = {}
    for name, is_right in zip(names, right.tolist(), strict=True):
        correct, total = sections.get(name, (0, 0))
        sections[name] = correct + is_right, total + 1
    return AnalogyScores(float(right.mean()), int(right.sum()), len(right), unknown, sections)


def _right(vectors, questions, same, restrict_vocab):
    of_words, places = np.unique(questions[:, :3], return_inverse=True)
    unit = unit_rows(vectors.matrix[of_words].astype(np.float64))
    a, b, c = np.moveaxis(unit[places.reshape(-1, 3)], 1, 0)
    found, _ = vectors.nearest(b - a + c, CANDIDATES, questions[:, :3], restrict_vocab)
    found = same[found]
    own = (found[:, :, None] == questions[:, None, :3]).any(2)
    answers = np.take_along_axis(found, own.argmin(1)[:, None], 1)[:, 0]
    return (answers == questions[:, 3]) & ~own.all(1)


def _known(vectors, restrict_vocab, case_insensitive):
    """Return the row of each known word; for words that differ only in case, the first row."""
    instance("vectors", vectors, Vectors), flag("case_insensitive", case_insensitive)
    if restrict_vocab is not None:
        integer("restrict_vocab", restrict_vocab, 1, None)
    rows = {}
    for i, word in enumerate(vectors.words[:restrict_vocab]):
        rows.setdefault(_folded(word, case_insensitive), i)
    return rows


def _folded(word, case_insensitive):
    return word.upper() if case_insensitive else word


def _pairs(path):
    for number, line in lines_of(path):
        if not line.strip() or line.startswith("#"):
            continue
        separator = next((s for s in "\t," if s in line), None)
        fields = [field.strip() for field in line.strip().split(separator)]
        try:
            a, b, score = fields
            score = float(score)
        except ValueError:
            if number == 1 and len(fields) == 3:
                continue  # the names of the columns
            score = math.nan
        if not math.isfinite(score):
            raise ValueError(
                f"{path}, line {number}: {line.strip()[:80]!r} is not two words and a number"
            )
        yield a, b, score


def _questions(path):
    section = None
    for number, line in lines_of(path):
        words = line.split()
        if line.startswith(":"):
            section = line[1:].strip()
        elif len(words) == 4 and section is not None:
            yield section, words
        elif words:
            missing = " after a line `: section`" if section is None else ""
            raise ValueError(
                f"{path}, line {number}: {line.strip()[:80]!r} is not four words{missing}"
            )


def _ranks(values):
    """Return the rank of each value; equal values get the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _pearson(a, b):
    a, b = (np.asarray(values, np.float64) - np.mean(values) for values in (a, b))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")
