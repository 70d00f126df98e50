"""examples/headlines.py, shortened, on an invented text."""

import csv
import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("tensorflow")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("rich", reason="rich is not installed")
pytest.importorskip("rouge_score", reason="rouge-score is not installed")
sys.path.append(str(Path(__file__).parents[1] / "examples"))

import headline_pairs

# NumPy 2 warns about the way in which Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BODY = "the mayor of {0} said on Monday that {0} will build {1}. She did not say when."
WHAT = ("a bridge", "a school", "two parks")


def rows(count):
    return [(f"{'ABCDE'[i % 5]} builds {WHAT[i % 3]}", BODY.format("ABCDE"[i % 5], WHAT[i % 3]))
            for i in range(count)]  # fmt: skip


@pytest.fixture
def articles(tmp_path):
    path = tmp_path / "articles.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "headline", "text"), *((0, *row) for row in rows(60))])
    return path


def test_a_short_run_writes_and_compares_titles(articles, tmp_path, capsys):
    module = import_module("headlines")
    output = tmp_path / "out"
    arguments = ["--data", articles, "--epochs", "2", "--openings", "1", "--size", "8"]
    results = module.main([*map(str, arguments), "--output", str(output)])
    printed = capsys.readouterr().out
    assert "48 headlines" in printed and "ROUGE-L" in printed and "Training with no copy" in printed
    ways = results["titles"]
    assert ways["the real headlines"] == {"rouge_l": 1, "copied": 0}
    assert ways["first sentence"]["copied"] == 1 and 0 < ways["first sentence"]["rouge_l"] < 1
    assert {len(curve) for curve in results["curves"].values()} == {2}
    assert json.loads((output / "results.json").read_text())["articles"] == 6
    assert (output / "headlines.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(output.glob("partial-*"))

    texts = tmp_path / "texts"
    texts.write_text("\n".join(body for _, body in rows(2)) + "\n\n", "utf-8")
    module.main(["--generate", str(texts), "--output", str(output)])
    titles = capsys.readouterr().out.splitlines()
    assert len(titles) == 2 and all(len(title) <= 40 for title in titles)
    with pytest.raises(SystemExit, match="train first"):
        module.main(["--generate", str(texts), "--output", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="No such file"):
        module.main(["--generate", str(tmp_path / "none"), "--output", str(output)])


def test_a_writer_reads_what_stands_in_the_article(rng):
    training = import_module("headline_training")
    from fastkeras.seq2seq import CharacterVocabulary

    vocabulary = CharacterVocabulary.of([body for _, body in rows(15)])
    model = training.network(len(vocabulary), 8, "gated")
    writer = training.Writer(model, vocabulary, longest=30)
    bodies = [BODY.format("A", "a bridge"), "short"]
    titles = writer.titles(bodies)
    assert titles == [writer.titles([body])[0] for body in bodies]  # padding changes nothing
    weights = writer.attention(bodies[0], "A builds")
    assert weights.shape == (9, 30)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)


def test_help_says_what_it_does(capsys):
    module = import_module("headlines")
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    printed = capsys.readouterr().out
    assert module.__doc__.splitlines()[0] in printed and "build/headlines" in printed
    with pytest.raises(SystemExit, match="2"):
        module.main(["--epochs", "0"])


def test_headlines_are_found_in_a_newspaper():
    body = (
        "今天下午,北京市政府宣布了一项新的决定,许多人表示欢迎,也有人提出了自己的看法,讨论十分热烈。"
    )
    texts = ["北京宣布新决定", "新华社北京1月8日电(记者于海生)" + body, "一、前言", body]
    texts += [
        "短",
        body,
        "这不是标题。",
        body,
        "本报驻俄罗斯记者许宏治",
        body,
        "天气",
        "本报讯晴。",
    ]
    assert headline_pairs.pairs_of(texts) == [("北京宣布新决定", body)]
    assert headline_pairs.openings([texts[1], "短文。"]) == [("今天下午", body)]
    assert headline_pairs.first_sentence(body) == body[:-1]
    assert headline_pairs.first_sentence("It rose 1.5 %. Then it fell.") == "It rose 1.5 %"


def test_pairs_are_read_from_csv_and_json(articles, tmp_path):
    expected = rows(60)
    assert headline_pairs.read_pairs(articles) == expected
    lines = tmp_path / "articles.jsonl"
    written = [{"title": title, "body": body} for title, body in expected]
    written.append({"title": None, "body": "a text without a title"})
    lines.write_text("\n".join(map(json.dumps, written)), "utf-8")
    assert headline_pairs.read_pairs(lines) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    (
        ("a.csv", "heading,body\n1,2\n", "must have a column for the title, title or headline"),
        ("a.csv", "", "has no rows"),
        ("a.jsonl", "[1]\n", "has no rows with names"),
        ("a.jsonl", "{title", "Expecting property name"),
    ),
)
def test_another_file_is_refused_with_what_is_wrong(name, text, message, tmp_path):
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(SystemExit, match=message):
        headline_pairs.read_pairs(tmp_path / name)
    with pytest.raises(SystemExit, match="No such file"):
        headline_pairs.read_pairs(tmp_path / "none.csv")


def test_rouge_counts_chinese_characters_and_words():
    tokens = headline_pairs.Words().tokenize("中国GDP增长8%, Don't stop")
    assert tokens == ["中", "国", "gdp", "增", "长", "8", "don", "t", "stop"]
    training = import_module("headline_training")
    assert training.rouge_l(["今天没下雨"], ["今天下雨了"]) == pytest.approx(0.8)
    assert training.rouge_l(["a cat"], ["A cat!"]) == 1
    assert training.copied(["cat", "dog"], ["a cat", "a cat"]) == 0.5


def test_too_few_pairs_are_refused():
    with pytest.raises(SystemExit, match="too few"):
        headline_pairs.split_by_position(rows(20))
    parts = headline_pairs.split_by_position(rows(61))
    assert list(map(len, parts)) == [47, 7, 7] and [*parts[0], *parts[1], *parts[2]] == rows(61)
