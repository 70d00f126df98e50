"""The smaller examples of taggers, on an invented text."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("tensorflow")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
sys.path.append(str(Path(__file__).parents[1] / "examples"))

# NumPy 2 warns about the way in which Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = ("partial_labels", "distill_crf")
WORDS = ["我们", "在", "图书馆", "看", "书", "和", "人民日报", "他们", "学习"]


@pytest.fixture
def corpus(monkeypatch, rng):
    module = import_module("peoples_daily")
    paragraphs = [[*rng.choice(WORDS, 8).tolist(), "。"] for _ in range(200)]
    monkeypatch.setattr(module, "read_paragraphs", lambda: paragraphs)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_it_does_and_where_its_picture_goes(name, capsys):
    module = import_module(name)
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    said = capsys.readouterr().out
    assert module.__doc__.splitlines()[0] in said and f"build/{name}.png" in said
    with pytest.raises(SystemExit, match="2"):
        module.main(["--paragraphs", "0"])


def test_summing_out_learns_from_a_few_tags(corpus, tmp_path, monkeypatch, capsys):
    module = import_module("partial_labels")
    monkeypatch.setattr(module, "SHARES", (0.2,))
    monkeypatch.setattr(module, "WAYS", dict(list(module.WAYS.items())[::3]))
    arguments = ["--paragraphs", "160", "--epochs", "25", "--output", str(tmp_path / "p.png")]
    found, ceiling = module.main(arguments)
    (summed,), (singles,) = found.values()
    assert summed > singles + 0.2 and ceiling > 0.9
    assert "points on the best other way" in capsys.readouterr().out
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_hidden_tags_are_as_many_as_asked_and_nested():
    module = import_module("partial_labels")
    tags = [np.arange(500) % 4, np.arange(1500) % 4]
    few, more = (np.concatenate(module.hidden(tags, share)) for share in (0.1, 0.5))
    known = few != module.HIDDEN
    assert known.mean() == pytest.approx(0.1, abs=0.03)
    assert (more != module.HIDDEN).mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(few[known], np.concatenate(tags)[known])
    np.testing.assert_array_equal(few[known], more[known])


def test_a_student_believes_what_its_teacher_does(corpus, tmp_path, monkeypatch, rng, capsys):
    module = import_module("distill_crf")
    either = [["我", "们"], ["我们"]]  # chosen at random, so the model has to learn uncertainty
    texts = [[w for i in rng.integers(0, 2, 6) for w in either[i]] + ["。"] for _ in range(200)]
    monkeypatch.setattr(corpus, "read_paragraphs", lambda: texts)
    arguments = ["--paragraphs", "30", "--epochs", "60", "--output", str(tmp_path / "d.png")]
    found, of_teacher = module.main(arguments)
    divergence = {name: kl for name, (_, kl) in found.items()}
    assert divergence["student, cross-entropy"] < 0.5 * divergence["student, teacher's best tags"]
    assert 0 < of_teacher < 1
    assert "gains" in capsys.readouterr().out
    assert (tmp_path / "d.png").read_bytes()[:4] == b"\x89PNG"


def test_nested_names_are_those_of_words_and_brackets(corpus):
    module = import_module("nested_names")
    line = (
        "江/nr  泽民/nr  在/p  《/w  北京/ns  日报/n  》/w  说/v  ,/w  张飞/nr  到/v  中共/nt  。/w"
    )
    ((text, spans),) = module.sentences_of(module.tagged_words(line))
    names = {(text[m : n + 1], kind) for m, n, kind in spans}
    assert names == {
        ("江泽民", "person"),
        ("江", "surname"),
        ("《北京日报》", "title"),
        ("北京", "place"),
        ("张飞", "person"),
        ("中共", "organisation"),
    }
    assert {text[m : n + 1] for m, n, _ in module.inner_ones(spans)} == {"江", "北京"}


def test_nested_names_are_found(corpus, monkeypatch, rng, capsys):
    module = import_module("nested_names")
    who, where = (rng.choice(names, 300) for names in (["我们", "他们"], ["上海", "北京"]))
    lines = [
        f"{a}/r  去/v  《/w  {b}/ns  日报/n  》/w  。/w" for a, b in zip(who, where, strict=True)
    ]
    monkeypatch.setattr(corpus, "read_paragraphs", lambda parse: [parse(line) for line in lines])
    kept = "GlobalPointer", "GlobalPointer, gated attention", "GlobalPointer, four heads"
    monkeypatch.setattr(module, "MODELS", {name: module.MODELS[name] for name in kept})
    found = module.main(["--epochs", "8", "--every", "1"])
    assert all(min(found[name]) > 0.9 for name in kept)
    assert "30 to test, with 60 spans, 30 of them inside others" in capsys.readouterr().out


def test_words_are_segments(corpus, capsys):
    module = import_module("semi_markov")
    labels, fits = module.words_of_tags(np.array(corpus.tags_of(["我们", "看", "图书馆"])))
    np.testing.assert_array_equal(labels, [1, -1, 0, 2, -1, -1])
    assert fits and not module.words_of_tags(np.array(corpus.tags_of(["一" * 9])))[1]
    found = module.main(["--paragraphs", "120", "--epochs", "12"])
    assert all(min(scores) > 0.9 for scores in found.values())
    assert "120 paragraphs to train on, 20 to test" in capsys.readouterr().out


def test_losses_of_the_crf_are_compared(corpus, monkeypatch, capsys):
    module = import_module("training_modes")
    kept = {name: module.MODES[name] for name in ("max-margin",)}
    monkeypatch.setattr(module, "MODES", kept)
    found = module.main(["--paragraphs", "120", "--epochs", "10"])
    (best, _) = found["max-margin"]
    assert min(best) > 0.9
    assert "120 paragraphs to train on, 20 to test" in capsys.readouterr().out


def test_parts_of_speech_are_found_from_characters(corpus, monkeypatch, rng, capsys):
    module = import_module("subword_tagger")
    lines = [
        f"{who}/r  在/p  {where}/n  。/w"
        for who, where in zip(
            rng.choice(["我们", "他们"], 200), rng.choice(["图书馆", "大学堂"], 200), strict=True
        )
    ]
    monkeypatch.setattr(corpus, "read_paragraphs", lambda parse: [parse(line) for line in lines])
    monkeypatch.setattr(module, "MODELS", {"labels": None})
    found = module.main(["--paragraphs", "150", "--epochs", "8"])
    assert all(shares[0] > 0.95 for shares in found.values()) and len(found) == 4
    assert "20 with 80 words to test, 4 tags" in capsys.readouterr().out


def test_the_first_two_batches_have_two_lengths(corpus):
    """Keras takes what these have in common for the shape of all batches."""
    lengths = [3] * 70 + [30] * 2
    characters = [np.full(length, 5, np.int32) for length in lengths]
    tags = [np.zeros(length, np.int32) for length in lengths]
    segmenting = import_module("segment_training").Batches(characters, tags, "crf", 9)
    subwords, nested = import_module("subword_tagger"), import_module("nested_names")
    words = [np.arange(length) for length in lengths]
    text = subwords.Text(characters, words, tags, [["一"] * length for length in lengths])
    named = [("一" * length, {(0, i % 3, "place")}) for i, length in enumerate(lengths)]
    all_batches = segmenting, subwords.Batches(text, None, 2), nested.Batches(named, "一", 2)
    for batches in all_batches:
        for _ in range(9):
            first, second = (_array(batches[i][0]) for i in (0, 1))
            assert first.shape[1] != second.shape[1]
            batches.on_epoch_end()
    assert {batch[1].shape[1] for batch in all_batches[-1]} == {1}


def _array(inputs):
    return inputs[0] if isinstance(inputs, tuple) else inputs
