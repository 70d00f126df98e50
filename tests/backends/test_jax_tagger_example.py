"""examples/jax_tagger.py on a made-up text, without Keras."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

for package in ("jax", "equinox", "optax"):
    pytest.importorskip(package, reason=f"{package} is not installed")
EXAMPLES = str(Path(__file__).parents[2] / "examples")
WORDS = ["我们", "在", "图书馆", "看", "书", "和", "人民日报", "他们", "学习"]


@pytest.fixture
def example(monkeypatch, rng):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setitem(sys.modules, "keras", None)
    module = import_module("jax_tagger")
    paragraphs = [[*rng.choice(WORDS, 6).tolist(), "。"] for _ in range(400)]
    monkeypatch.setattr(module.corpus, "read_paragraphs", lambda: paragraphs)
    return module


def test_both_heads_learn_words(example, capsys):
    found = example.main(["--paragraphs", "320", "--epochs", "12"])
    assert found["crf"] > 0.95 and found["softmax"] > 0.9
    assert "crf      " in capsys.readouterr().out


def test_long_sentences_are_read_in_pieces(example):
    words = ["图书馆"] * 40
    characters, tags = example.text_of([words], "馆图书")
    assert characters.shape == tags.shape == (2, example.STEPS)
    assert (characters != 0).sum() == 120
    assert tags[0, :6].tolist() == [0, 1, 2] * 2


def test_help_and_wrong_options(example, capsys):
    with pytest.raises(SystemExit, match="0"):
        example.main(["--help"])
    assert "Equinox" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        example.main(["--epochs", "0"])
