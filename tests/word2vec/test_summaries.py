"""The summaries that bench/ makes of the results of Word2Vec, and their copy in docs/speed.md."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def bench(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "bench")])


def row(seconds, words=1000, setup=0.0):
    of = {"low": 0.9 * seconds, "median": seconds, "high": 1.1 * seconds}
    return {"words": words, "setup": setup, "cpu": of, "wall": of, "analogies": 90.0}


@pytest.fixture
def speed():
    return {
        "machine": {"cpu": "Some", "instruction_set": "avx2", "versions": {"gensim": "4.4.0"}},
        "corpus": {"name": "synthetic", "bytes": 1000},
        "word2vec": {
            "skip-gram": {
                "fastkeras, window-shared": row(1.0, setup=5.0),
                "fastkeras, exact": row(2.0),
                "gensim": row(9.0),
                "fastText": {"missing": "No module named 'fasttext'"},
            }
        },
        "cache": {
            "CBOW": {"memory": row(1.7)["cpu"], "cache": row(1.0)["cpu"]},
            "skip-gram, exact": {"memory": row(1.25)["cpu"], "cache": row(1.0)["cpu"]},
            "hierarchical softmax": {"memory": row(1.5)["cpu"], "cache": row(1.0)["cpu"]},
        },
        "scan": {
            "bytes_counted_per_second": 3e7,
            "bytes_encoded_per_second": 1e7,
            "vocabulary": 7,
            "memory": 2**20,
            "memory_allowed": 2**21,
        },
    }


@pytest.fixture
def quality():
    def text(rows, words):
        return {"words": words, "bytes": 5 * words, "rows": rows, "common": {"vocabulary": 7}}

    names = ("skip-gram, exact", "skip-gram, window-shared", "CBOW, word2vec's update")
    wordsim = {name: {"wordsim": [0.5, 0.6]} for name in names}
    wordsim["skip-gram, window-shared"] = {"wordsim": [0.4, 0.5]}
    planted = {name: {"planted": [80.0, 90.0]} for name in names}
    for name in ("gensim skip-gram", "gensim CBOW"):
        wordsim[name], planted[name] = {"wordsim": [0.54, 0.56]}, {"planted": [84.0, 86.0]}
    texts = {"English": text(wordsim, 4_200_000), "synthetic": text(planted, 2_000_000)}
    return {"epochs": 5, "seeds": 2, "texts": texts}


def test_table_has_speed_ratios_with_spread_and_quality(speed, quality):
    import word2vec_summary

    lines = word2vec_summary.markdown(speed, quality, Path("a.json"), Path("b.json")).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:5]]
    assert cells[0][:4] == [
        "one thread",
        "k words / CPU second",
        "against gensim",
        "against fastText",
    ]
    assert len({len(row) for row in cells}) == 1
    # 1,000 words in 1 s, and a fifth of 5 s for reading; the low ratio: our high to the peer's low
    assert cells[2][:4] == ["skip-gram: **fastkeras, window-shared**", "0", "4.5× (3.9 to 5.2)", ""]
    assert cells[3][2:5] == ["4.5× (3.7 to 5.5)", "", "0.550 ± 0.071"]
    assert cells[4][2:5] == ["", "", "0.550 ± 0.014"]
    assert cells[4][-1] == "85.0 ± 1.4"


def test_note_names_the_misses(speed, quality):
    import word2vec_summary

    text = word2vec_summary.markdown(speed, quality, Path("a.json"), Path("b.json"))
    note = text.splitlines()[-1]
    assert "4.2 M words of English text" in note
    # two of speed, three of the cache and one beside skip-gram, one each of counted, encoded,
    # memory; and two of quality for each model
    assert "Of 15 aims, 10 are reached. Missed: " in note
    missed = note.partition("Missed: ")[2]
    assert missed == (
        "skip-gram, fastkeras, window-shared 4.5 × gensim, of 9; "
        "CBOW 58.8 % of its speed with all rows in the first cache, of 62.5 %; "
        "hierarchical softmax 66.7 % of its speed with all rows in the first cache, of 80.0 %, "
        "that of skip-gram, exact; "
        "words encoded at 10 MB/s, of 20; "
        "skip-gram, window-shared in WordSim-353 -0.100 to gensim skip-gram, of -0.014."
    )


def test_lines_of_both_runs_name_the_same_misses(speed, quality):
    import word2vec_quality_summary
    import word2vec_summary

    lines = [*word2vec_summary.summary(speed), *word2vec_quality_summary.summary(quality)]
    assert sum(line.count(": NO") for line in lines) == 5
    assert any("66.7 % of that speed (54.5 % to 81.5 %)" in line for line in lines)
    assert any(
        line.split("  ")[0] == "CBOW, word2vec's update" and "0.550 ± 0.071" in line
        for line in lines
    )


def test_the_note_on_quality_tells_whether_seeds_share_the_order_of_lines(quality):
    from word2vec_quality_summary import markdown

    assert "The seeds share one order of lines" in markdown(quality, Path("b.json"))
    table = markdown({**quality, "order_by_seed": True}, Path("b.json"))
    assert "Each seed has an order of lines of its own" in table


def recorded():
    return sorted((ROOT / "bench" / "results").glob("word2vec-quality-*.json"))


@pytest.mark.parametrize("path", recorded(), ids=lambda path: path.stem)
def test_the_docs_have_the_table_of_the_recorded_results(path):
    import word2vec_summary

    speed_path = path.with_name(path.name.replace("quality-", ""))
    results, quality = (json.loads(p.read_text()) for p in (speed_path, path))
    table = word2vec_summary.markdown(results, quality, speed_path, path)
    assert table in (ROOT / "docs" / "speed.md").read_text("utf-8"), "run `make figures`"


def test_summary_of_several_workers_judges_speed_and_quality(tmp_path):
    from word2vec_workers_summary import markdown, summary

    def scores(shift):
        names = ("wordsim", "simlex", "rare", "analogies")
        return {name: [0.5 + shift, 0.6 + shift, 0.7 + shift] for name in names}

    results = {
        "settings": {"workers": 2, "between": 2_000_000, "seeds": 3},
        "words": 4_000_000,
        "speed": {"load": 0.1, "here": 1.1e6, "one": 1.0e6, "all": 1.9e6},
        "quality": {"skip-gram": {"1": scores(0.0), "2": scores(-0.05)}},
    }
    text = "\n".join(summary(results))
    assert "2 workers: 1.73 x words/s of one thread without Ray; to reach: 1.8: NO" in text
    assert "2 workers: 1.90 x words/s of one worker; to reach: 1.8: yes" in text
    assert "-0.050 to one worker in WordSim-353; to reach: at least -0.100: yes" in text
    results["quality"]["skip-gram"]["2"] = scores(-0.15)
    assert text.count(": NO") + 4 == "\n".join(summary(results)).count(": NO")
    table = markdown(results, tmp_path / "workers.json")
    assert "1.90 times as many as one and 1.73 times" in table
    assert "| skip-gram | 2 | 0.450 ± 0.100 |" in table


def test_aims_tell_what_is_reached_and_why_not(speed, quality):
    from word2vec_aims import markdown

    rows = quality["texts"]["English"]["rows"]
    rows["skip-gram, window-shared"] = {"wordsim": [0.40, 0.41, 0.421], "simlex": [0.9, 0.9]}
    rows["gensim skip-gram"] = {"wordsim": [0.54, 0.55, 0.56], "simlex": [0.3, 0.31]}
    rows["skip-gram, exact"] = {"wordsim": [0.2, 0.8]}
    rows["gensim CBOW"] = {"wordsim": [0.551, 0.552]}
    table = markdown((speed, Path("a.json")), (quality, Path("b.json")), None, None)
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if "|" in line}
    missed = lines["skip-gram, fastkeras, window-shared: times as fast as gensim"]
    assert "| at least 9.0 × | **4.5 ×** | the ratios of this run go from 3.86 to 5.21 |" in missed
    assert lines["text, counted by a core"].endswith("| at least 20 MB/s | 30 MB/s |  |")
    missed = lines["skip-gram, window-shared: WordSim-353, beside gensim skip-gram"]
    assert "**-0.140** | hardly chance: p = 5.7e-06 by pairs of 3 seeds; there are also" in missed
    assert "SimLex-999 +0.595" in missed
    missed = lines["skip-gram, exact: WordSim-353, beside gensim skip-gram"]
    chance = "may be chance, as one of 7 differences: p = 0.9 by pairs of 2 seeds"
    assert f"| **-0.050** | {chance} |" in missed
    assert table.endswith("[a.json](../bench/results/a.json), [b.json](../bench/results/b.json).")
    bold, all_rows = table.count("| **"), len(lines) - 2
    assert f"{all_rows - bold} of {all_rows} are reached" in table


def test_aims_of_files_and_of_workers():
    from word2vec_aims import markdown

    vectors = {"words": 1_000_000, "size": 300, "queries": 1000}
    vectors["loading"] = {
        "text, gensim": {"clock": 90.0},
        "text, fastkeras": {"clock": 10.0},
        "mapped .npy, fastkeras": {"clock": 0.4},
        "binary, fastkeras": {"clock": 1.5},
    }
    vectors["nearest"] = {
        "fastkeras": {"clock": 1.0},
        "NumPy, matmul and argpartition": {"clock": 3.0},
    }
    scores = {name: [0.5, 0.6] for name in ("wordsim", "simlex", "rare", "analogies")}
    workers = {
        "settings": {"workers": 2},
        "speed": {"here": 1e6, "one": 0.8e6, "all": 1.5e6},
        "quality": {"skip-gram": {"1": scores, "2": scores}},
    }
    table = markdown(None, None, (vectors, Path("v.json")), (workers, Path("w.json")))
    assert "times as fast as gensim | at least 10.0 × | **9.0 ×**" in table
    assert "word2vec's binary file | at most 1.00 s | **1.50 s** | word2vec's format has" in table
    assert "a `.npy`, mapped | at most 1.00 s | 0.40 s |  |" in table
    assert "| at least 1.80 × | 1.88 × |" in table
    assert "| **1.50 ×** | one worker has 80% of the speed of `Word2Vec.fit`" in table
    assert "7 of 10 are reached" in table


@pytest.mark.parametrize("path", recorded(), ids=lambda path: path.stem)
def test_the_docs_have_the_aims_of_the_recorded_results(path):
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
    import plot

    table = plot.aims_of_word2vec(path)
    assert table in (ROOT / "docs" / "word2vec.md").read_text("utf-8"), "run `make figures`"
