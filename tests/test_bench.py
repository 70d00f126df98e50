"""`fastkeras bench` checks, writes, compares and plots what it measures."""

import json
import re
import shutil
import subprocess

import pytest

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")

from fastkeras.bench import cases, report
from fastkeras.bench.cli import main

ROW = {"function": "gradient", "provider": "native", "ours": True, "size": 10, "rounds": 9}
ROW |= {"median": 2e-3, "p20": 1.9e-3, "p80": 2.1e-3, "error": 1e-7, "work": {"flops": 10**6}}
FOUND = {"rates": {"flops": 1e9, "exps": 1e9, "bytes": 1e9}, "rows": [ROW], "skipped": []}


@pytest.fixture(autouse=True)
def measured_all_the_same(monkeypatch):
    """Measure under xdist too, where pytest-benchmark would be disabled."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


def run(*arguments):
    return main([*arguments, "--seconds", "0.05"])


def test_a_provider_that_is_not_known_is_told_who_is(capsys):
    assert run("crf", "--only", "nativ") == 2
    assert "these are known: " in capsys.readouterr().out


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
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("<svg") == 5
    assert not re.search(r"(src|href)=\"?http", page)  # it loads nothing from the network
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
    with pytest.raises(SystemExit, match="there is no file"):
        run("word2vec", "--corpus", str(tmp_path / "none.txt"))


def test_a_wrong_result_is_no_time(monkeypatch, capsys):
    def wrong(found):
        raise AssertionError("off by one")

    case = cases.Case("gradient", "native", True, 1, lambda: lambda: 1, wrong, {})
    monkeypatch.setattr(cases, "of_crf", lambda *shape: [case])
    assert run("crf") == 1
    assert "WRONG" in capsys.readouterr().err


def test_what_is_missing_is_told(monkeypatch, capsys):
    def prepare():
        raise ImportError("No module named 'torchcrf'")

    cases_of = [cases.Case("gradient", "pytorch-crf", False, 1, prepare, dict, {})]
    cases_of.append(cases.Case("gradient", "native", True, 1, lambda: dict, dict, {}))
    monkeypatch.setattr(cases, "of_crf", lambda shape: cases_of)
    assert run("crf", "--peers") == 0
    assert "gradient, pytorch-crf: No module named 'torchcrf'" in capsys.readouterr().out


def test_slower_is_what_the_machine_does_not_explain():
    def run_of(seconds, rate):
        row = ROW | {"median": seconds, "p20": 0.95 * seconds, "p80": 1.05 * seconds}
        return FOUND | {"rates": {"flops": rate, "bytes": rate}, "rows": [row]}

    old = run_of(2e-3, 1e9)
    assert not report.compared(run_of(4e-3, 0.5e9), old)[1]  # on a machine of half the speed
    lines, slower = report.compared(run_of(4e-3, 1e9), old)
    assert slower and lines[-1].endswith("2.00×  SLOWER")
    assert not report.compared(run_of(2.1e-3, 1e9), old)[1]


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


def test_the_page_opens_in_a_browser(tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser is installed")
    from fastkeras.bench.page import page

    path = tmp_path / "page.html"
    path.write_text(page("CRF, 1 × 10 × 2", FOUND), "utf-8")
    command = [browser, "--headless", "--no-sandbox", "--dump-dom", path.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "<h1>CRF, 1 × 10 × 2</h1>" in ran.stdout and "<svg" in ran.stdout, ran.stderr
