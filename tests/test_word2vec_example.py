"""examples/word2vec_news.py, on an invented text."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fastkeras.word2vec.vectors import Vectors

sys.path.append(str(Path(__file__).parents[1] / "examples"))

import word2vec_news as example


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    path = tmp_path / "199801.txt"
    lines = ["[中国/ns  政府/n]nt  １９９８年/t  说/v", "说/n  说/v  中国/ns"] * 40
    path.write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(example, "corpus_path", lambda: path)
    monkeypatch.setattr(example, "read_paragraphs", lambda: [["中国", "政府", "1998年", "说"]] * 40)
    return path


def test_a_word_is_of_its_most_frequent_kind(corpus):
    assert example.kinds_of_words() == {"中国": "ns", "政府": "n", "1998年": "t", "说": "v"}


@pytest.mark.filterwarnings("ignore:an epoch made")  # four words are too few
def test_training_goes_on_only_if_there_is_something_left(corpus, tmp_path):
    first = example.train(tmp_path, epochs=2)
    again = example.train(tmp_path, epochs=2)
    np.testing.assert_array_equal(again.input_embeddings, first.input_embeddings)
    assert len(example.train(tmp_path, epochs=3).history["loss"]) == 3


def test_shares_and_capitals_are_counted(capsys):
    words = ["中国", "北京", "日本", "东京", "巴黎"]
    places = [[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 1, 1], [-1, -1, -1]]
    vectors = Vectors(words, np.array(places, np.float32))
    example.capitals(vectors)
    assert capsys.readouterr().out == "  2 of 2, of 2 countries\n"
    kinds = {"中国": "ns", "日本": "ns", "北京": "v", "东京": "v", "巴黎": "v"}
    example.same_kind(vectors, kinds, topn=1)
    out = capsys.readouterr().out
    assert "places           0.0%   by chance  40.0%       2 words" in out
