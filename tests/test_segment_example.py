"""The data and the scorer of examples/segment.py, on invented sentences."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "examples"))

import peoples_daily as corpus

WORDS = ["我们", "在", "图书馆", "看", "书", "。", "好", "!"]
TAGS = "besbmesssss"


def test_a_line_of_the_corpus_becomes_normalised_words():
    line = "１９９８年/t  １/m  ·/w  中国/ns  ＡＢ/nx  １／２/m \n"
    assert corpus.words_in(line) == ["1998年", "1", "·", "中国", "AB", "1/2"]


def test_tags_say_where_in_its_word_a_character_stands():
    tags = corpus.tags_of(["一", "二三", "四五六七"])
    assert "".join(corpus.TAG_NAMES[tag] for tag in tags) == "sbebmme"


def test_words_come_back_from_their_tags():
    assert corpus.words_of("".join(WORDS), corpus.tags_of(WORDS)) == WORDS


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ("mm", ["一二"]),  # illegal tags still cut the text, where they can
        ("bb", ["一", "二"]),
        ("eb", ["一", "二"]),
        ("bs", ["一", "二"]),
        ("se", ["一", "二"]),
    ],
)
def test_illegal_tags_still_give_words_and_are_told(tags, words):
    numbers = [corpus.TAG_NAMES.index(tag) for tag in tags]
    assert corpus.words_of("一二", numbers) == words
    assert not corpus.is_legal(numbers)


@pytest.mark.parametrize("tags", ["s", "be", "bme", "bmmes", "sbes"])
def test_legal_tags_are_legal(tags):
    assert corpus.is_legal([corpus.TAG_NAMES.index(tag) for tag in tags])


def test_no_tags_are_not_legal():
    assert not corpus.is_legal([])


def test_of_all_tag_sequences_the_legal_ones_are_those_of_a_segmentation():
    steps = 5
    legal = {tags for tags in np.ndindex(*[4] * steps) if corpus.is_legal(tags)}
    segmentations = set()
    for cuts in np.ndindex(*[2] * (steps - 1)):
        bounds = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), steps]
        words = ["x" * (b - a) for a, b in pairwise(bounds)]
        segmentations.add(tuple(corpus.tags_of(words)))
    assert legal == segmentations


def test_sentences_end_behind_their_mark_and_keep_every_character():
    text = "今天下雨。你来吗?来!好"
    assert corpus.sentences(text) == ["今天下雨。", "你来吗?", "来!", "好"]
    assert corpus.sentences("下雨。") == ["下雨。"]
    assert corpus.sentences("") == []


def test_labelled_sentences_carry_the_tags_of_their_own_characters():
    characters, tags = corpus.labelled_sentences([WORDS], "".join(sorted(set("".join(WORDS)))))
    assert [len(sentence) for sentence in characters] == [9, 2]
    spelled = "".join(corpus.TAG_NAMES[tag] for sentence in tags for tag in sentence)
    assert spelled == TAGS
    assert all((sentence > corpus.UNKNOWN).all() for sentence in characters)


def test_rare_and_new_characters_are_unknown():
    vocabulary = corpus.vocabulary_of([["天天", "地"], ["天"]])
    assert vocabulary == "天"
    (numbers,) = corpus.encode(["天地"], vocabulary)
    assert numbers.tolist() == [corpus.UNKNOWN + 1, corpus.UNKNOWN]


@pytest.mark.parametrize("count", [10, 25, 19_484])
def test_the_last_tenth_is_test_and_the_tenth_before_validation(count):
    training, validation, test = corpus.split_by_position(list(range(count)))
    assert training + validation + test == list(range(count))
    assert len(test) == len(validation) == -(-count // 10)


def test_a_word_counts_only_with_both_its_ends():
    true = [["我们", "在", "图书馆"], ["好"]]
    found = [["我们", "在", "图书", "馆"], ["好"]]
    precision, recall, f1 = corpus.score(true, found)
    assert (precision, recall) == (3 / 5, 3 / 4)
    assert f1 == pytest.approx(2 * 3 / 9)


def test_equal_segmentations_score_one_and_disjoint_ones_zero():
    assert corpus.score([WORDS], [WORDS]) == (1, 1, 1)
    assert corpus.score([["一二", "三"]], [["一", "二三"]]) == (0, 0, 0)


def test_maximum_matching_takes_the_longest_word_from_the_left():
    words = {"研究", "研究生", "生命", "起源"}
    assert corpus.maximum_matching("研究生命起源", words, 3) == ["研究生", "命", "起源"]


def test_another_file_is_refused_with_what_is_wrong(tmp_path):
    path = tmp_path / "199801.txt"
    path.write_text("迈向/v\n充满/v\n", "utf-8")
    with pytest.raises(SystemExit, match="18 bytes and 2 lines, expected 10,120,457 and 19,484"):
        corpus.read_paragraphs(path)
    with pytest.raises(SystemExit, match="is missing"):
        corpus.read_paragraphs(tmp_path / "nothing.txt")
