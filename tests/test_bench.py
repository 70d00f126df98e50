"""`fastkeras bench` checks, writes, compares and plots what it measures."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")

from browser import open_at_widths
from fastkeras.bench import cases, earlier, limits
from fastkeras.bench.cli import main
from fastkeras.bench.page import page

ROW = {"function": "gradient", "provider": "native", "ours": True, "size": 10, "rounds": 9}
ROW |= {"threads": 2, "median": 2e-3, "p20": 1.9e-3, "p80": 2.1e-3, "calibration": 1e-4}
ROW |= {
    "long_calibration": 1e-2,
    "error": 1e-7,
    "work": {"flops": 10**6, "exps": 10**4, "bytes": 10**5},
}
FOUND = {"version": earlier.VERSION, "domain": "crf", "title": "CRF, 1 × 10 × 2"}
FOUND |= {"rates": {"flops": 1e9, "exps": 1e9, "bytes": 1e9}, "rows": [ROW]}
FOUND |= {"machine": {"cpu": "a <fast> one", "processors": 2}, "skipped": [], "wrong": []}


@pytest.fixture(autouse=True)
def measured_all_the_same(monkeypatch):
    """Measure under xdist too, where pytest-benchmark would be disabled."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


def run(*arguments):
    return main([*arguments, "--seconds", "0.05"])


def test_a_provider_that_is_not_known_is_told_who_is(capsys):
    with pytest.raises(SystemExit, match="2"):
        run("crf", "--only", "nativ")
    assert "'nativ' (did you mean 'native'?): known are " in capsys.readouterr().err


def test_the_crf_on_a_shape_of_your_own(tmp_path, capsys):
    arguments = ("crf", "--shape", "3,7,4", "--only", "native", "--only", "numba")
    files = ("--json", str(tmp_path / "found.json"), "--html", str(tmp_path / "page.html"))
    assert run(*arguments, *files) == 0
    printed = capsys.readouterr().out
    assert "CRF, 3 × 7 × 4" in printed and "1.00×" in printed
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert {row["size"] for row in found["rows"]} >= {7}
    assert found["wrong"] == [] and found["rates"]["flops"] > 0
    assert all(row["p20"] <= row["median"] <= row["p80"] for row in found["rows"])
    assert {row["provider"] for row in found["rows"]} == {"native", "numba"}
    whole = {row["threads"] for row in found["rows"]}
    assert whole == {1, limits.processors()} or limits.processors() > 2
    text = (tmp_path / "page.html").read_text("utf-8")
    assert text.count("<figure") >= 6 * 3
    assert not re.search(r"(src|href)=\"?http", text)  # it loads nothing from the network
    assert run(*arguments, "--compare", files[1]) in (0, 1)
    assert "against the earlier run" in capsys.readouterr().out


def test_a_step_of_a_search_of_your_own(capsys):
    arguments = ("--shape", "3,2,50", "--only", "native", "--only", "NumPy loop")
    assert run("seq2seq", *arguments) == 0
    printed = capsys.readouterr().out
    assert "a step of a beam search, 3 × 2 × 50" in printed and "NumPy loop" in printed
    with pytest.raises(SystemExit, match="2"):
        run("seq2seq", "--shape", "3,2")
    assert "takes batch,beams,vocabulary such as 32,4,8192" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ("score", "token", "twice"))
def test_a_wrong_candidate_is_found(wrong):
    from fastkeras.bench.seq2seq import PROVIDERS, check, draw

    problem = draw(3, 2, 50)
    scores, tokens, parents = PROVIDERS["NumPy loop"](problem)()
    assert check(problem, (scores, tokens, parents))["error"] < 1e-5
    if wrong == "score":
        scores[1, 2] += 1
    elif wrong == "token":
        tokens[1, 2] = problem.logits[1, parents[1, 2]].argmin()
    else:
        scores[1, 1], tokens[1, 1], parents[1, 1] = scores[1, 0], tokens[1, 0], parents[1, 0]
    with pytest.raises(AssertionError):
        check(problem, (scores, tokens, parents))


def test_an_optimizer_step_of_your_own(capsys):
    arguments = ("--parameters", "40K", "--variables", "4", "--clip")
    assert run("optimizer", *arguments, "--only", "fastkeras, NumPy") == 0
    assert "AdamW, 40,000 numbers in 4 variables" in capsys.readouterr().out


def test_a_corpus_of_your_own(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat while the dog ran\n" * 400)
    assert run("word2vec", "--corpus", str(text), "--only", "fastkeras") == 0
    assert "hierarchical softmax" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"each word but once\n"])
def test_what_is_no_corpus_is_refused(content, tmp_path, capsys):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        run("word2vec", "--corpus", str(path))
    assert "--corpus" in capsys.readouterr().err


@pytest.mark.parametrize("domain", ["crf", "seq2seq"])
def test_the_smallest_problem_can_be_measured(domain):
    assert run(domain, "--shape", "1,1,1", "--only", "native") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seconds", "nan"), "takes seconds above 0"),
        (("--seconds", "0"), "takes seconds above 0"),
        (("--shape", "2,3,1G"), "GiB of memory"),
        (("--json", "no/such/folder/file"), "--json: there is no such folder"),
        (("--html", "."), "--html: it is a folder"),
        (("--compare", "none.json"), "No such file"),
    ],
)
def test_what_would_fail_later_fails_at_once(arguments, words, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["crf", *arguments])
    assert words in capsys.readouterr().err


def test_more_variables_than_numbers(capsys):
    with pytest.raises(SystemExit, match="2"):
        run("optimizer", "--parameters", "10", "--variables", "20")
    assert "--parameters is 10" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        "", "[1]", '{"version": 2}', '{"version": 2, "rows": [3]}', '{"version": 2, "rows": [{}]}',
        json.dumps(FOUND | {"version": 1}), json.dumps(FOUND | {"title": "CRF, 1 × 10 × 3"}),
        json.dumps(FOUND | {"rows": [ROW | {"median": 0}]}),
        json.dumps(FOUND | {"rows": [ROW | {"p80": "1"}]}),
        json.dumps(FOUND | {"rows": [ROW | {"provider": 7}]}),
    ],
)  # fmt: skip
def test_what_is_no_earlier_run_is_refused(content, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(FOUND), "utf-8")
    assert earlier.read(path, FOUND["title"]) == FOUND
    path.write_text(content, "utf-8")
    with pytest.raises(ValueError):
        earlier.read(path, FOUND["title"])


def test_a_wrong_result_is_no_time(monkeypatch, capsys):
    def wrong(found):
        raise AssertionError("off by one")

    case = cases.Case("gradient", "native", True, 1, lambda: lambda: 1, wrong, {})
    monkeypatch.setattr(cases, "of_crf", lambda *shape: [case])
    assert run("crf") == 1
    assert "WRONG: gradient-native-1: " in capsys.readouterr().out


def test_what_is_missing_is_told(monkeypatch, capsys):
    def prepare():
        raise ModuleNotFoundError("No module named 'torchcrf'", name="torchcrf")

    cases_of = [cases.Case("gradient", "pytorch-crf", False, 1, prepare, dict, {})]
    cases_of.append(cases.Case("gradient", "native", True, 1, lambda: dict, dict, {}))
    monkeypatch.setattr(cases, "of_crf", lambda shape: cases_of)
    assert run("crf", "--peers") == 0
    expected = "  pytorch-crf: No module named 'torchcrf': it takes `pip install pytorch-crf`"
    assert expected in capsys.readouterr().out


def test_slower_is_what_the_machine_does_not_explain():
    def run_of(seconds, short, long):
        row = ROW | {"median": seconds, "p20": 0.95 * seconds, "p80": 1.05 * seconds}
        row |= {"calibration": short, "long_calibration": long}
        return FOUND | {"rows": [row]}

    old = run_of(2e-3, 1e-4, 1e-2)
    assert not earlier.compared(run_of(4e-3, 2e-4, 2e-2), old)[1]  # on a machine of half the speed
    assert not earlier.compared(run_of(4e-3, 1e-4, 2e-2), old)[1]  # on a busy one
    assert not earlier.compared(old, run_of(2e-3, 1e-4, 3e-2))[1]  # the earlier one was busy
    lines, slower = earlier.compared(run_of(4e-3, 1e-4, 1e-2), old)
    assert slower and lines[-1].endswith("2.00×  SLOWER")
    assert not earlier.compared(run_of(2.1e-3, 1e-4, 1e-2), old)[1]


def test_an_ideal_kernel_takes_the_longer_of_arithmetic_and_traffic():
    rates = {"flops": 1e9, "exps": 1e8, "bytes": 1e9}
    assert limits.ideal({"flops": 1e9, "exps": 1e8, "bytes": 1e9}, rates) == 2
    assert limits.ideal({"flops": 1e9, "bytes": 3e9}, rates) == 3
    assert limits.ideal({}, rates) is None


def test_a_synthetic_text_has_the_words_asked_for(tmp_path):
    from fastkeras.bench.word2vec_corpus import LINE, write

    path = tmp_path / "text.txt"
    size = write(path, 2 * LINE + 1)
    lines = path.read_text("ascii").splitlines()
    assert [len(line.split()) for line in lines] == [LINE] * 3
    assert size == path.stat().st_size


def test_a_wrong_update_of_word2vec_is_found(monkeypatch):
    from fastkeras.bench.word2vec_accuracy import check
    from fastkeras.word2vec import Word2Vec
    from fastkeras.word2vec._engines import native

    config = Word2Vec(window=5, negative=5).config
    training = SimpleNamespace(engine="native", config=config)
    vectors = np.eye(3)
    assert check(vectors, training)["error"] < 1e-5
    assert check(vectors, SimpleNamespace(engine=None)) == {}
    with pytest.raises(AssertionError):
        check(vectors * np.nan, training)

    def off(ids, begin, end, inputs, outputs, *more, train=native.train, **named):
        train(ids, begin, end, inputs, outputs, *more, **named)
        inputs[7, 3] += 0.25

    monkeypatch.setattr(native, "train", off)
    with pytest.raises(AssertionError, match="of a vector is wrong"):
        check(vectors, training)


@pytest.mark.parametrize(
    ("text", "expected"), [("199", 199), ("110M", 110_000_000), ("4.9m", 4_900_000), ("2K", 2000)]
)
def test_numbers_as_people_write_them(text, expected):
    assert cases.number(text) == expected


@pytest.mark.parametrize("text", ["", "-3", "0", "many", "3,4"])
def test_what_is_no_shape_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        main(["crf", "--shape", text])
    assert "takes" in capsys.readouterr().err


def found_by_all():
    """Results with several functions, providers, sizes and numbers of processors."""
    rows = [
        ROW | {"function": function, "provider": provider, "ours": provider != "<peer>"}
        | {"size": size, "threads": threads, "median": slower * size * 1e-4 / threads}
        | {"p20": slower * size * 9e-5 / threads, "p80": slower * size * 11e-5 / threads}
        | {"error": 0.0 if function == "viterbi" else 1e-7 * slower}
        for function in ("gradient", "viterbi")
        for provider, slower in (("native", 1), ("keras, XLA", 3), ("<peer>", 20))
        for size, threads in ((10, 2), (20, 2), (40, 2), (40, 1))
    ]  # fmt: skip
    skipped = [[function, "jax_native", "none " * 50] for function in ("gradient", "viterbi")]
    return FOUND | {"rows": rows, "skipped": skipped, "wrong": ["x" * 300]}


def test_the_page_in_a_browser(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page(found_by_all()), "utf-8")
    framed, messages = open_at_widths(path, tmp_path)
    assert messages == []
    for at in framed:
        assert at.heading == "CRF, 1 × 10 × 2, float32" and at.requests == []
        assert at.needed <= at.width, f"at {at.width} pixels it takes {at.needed}"
        assert len(at.figures) == 7 * 2  # every section has a plot for both functions
        assert all(200 <= width <= at.width and height >= 100 for *_, width, height in at.figures)
        assert min(at.ink) > 0.01, at.ink


def test_a_browser_sees_what_is_wrong_with_a_page(tmp_path):
    path = tmp_path / "page.html"
    body = "<h1>bad</h1><p style='width: 2000px'>wide</p><figure><svg width=300 height=200></svg>"
    away = "<img src='http://example.invalid/a.png'><script>nothing.at.all()</script>"
    path.write_text(f"<!doctype html>{body}</figure>{away}", "utf-8")
    framed, messages = open_at_widths(path, tmp_path)
    assert any("nothing is not defined" in message for message in messages)
    for at in framed:
        assert at.requests == ["http://example.invalid/a.png"]
        assert at.needed >= 2000 and at.ink == [0]


def test_multiply_adds_are_counted():
    if limits._core is None:
        pytest.skip("nothing is compiled here")
    width = {"avx512": 16, "avx2": 8, "portable": 4}[limits._core.instruction_set()]
    assert limits._core.multiply_adds(7) == 2 * 12 * width * 7
