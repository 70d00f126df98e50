"""The page of a map and neighbors: what stands in it, and what a browser shows."""

import html
import json
import re
import sys

import numpy as np
import pytest

from browser import open_page
from fastkeras.cli import main
from fastkeras.word2vec import Vectors
from fastkeras.word2vec.page import write_page

WORDS = ["king", "queen", "</script><b>", 'a "quote" & $title', "北京", "café", "rare"]


@pytest.fixture
def vectors(rng):
    return Vectors(WORDS, rng.normal(size=(len(WORDS), 5)).astype(np.float32))


def data_of(path):
    return json.loads(re.search('id="data">(.*)</script>', path.read_text("utf-8"))[1])


@pytest.mark.parametrize("words", [5, WORDS[1:5]])
def test_neighbors_are_those_of_all_vectors(tmp_path, vectors, words):
    path = tmp_path / "page.html"
    write_page(vectors, path, words=words, topn=4)
    data = data_of(path)
    assert data["words"] == (WORDS[:5] if words == 5 else words)
    for word, near, cosines in zip(data["words"], data["neighbors"], data["cosines"], strict=True):
        names = [data["words"][other] if isinstance(other, int) else other for other in near]
        assert not {*data["words"]} & {other for other in near if isinstance(other, str)}
        expected = vectors.most_similar(word, topn=4)
        assert names == [other for other, _ in expected]
        np.testing.assert_allclose(cosines, [cosine for _, cosine in expected], atol=6e-5)


def test_fewer_words_than_neighbors(tmp_path, vectors):
    write_page(vectors, tmp_path / "page.html", words=3, topn=50)
    assert [len(near) for near in data_of(tmp_path / "page.html")["neighbors"]] == [6, 6, 6]


def test_layout_by_neighbors(tmp_path, rng):
    pytest.importorskip("sklearn", reason="scikit-learn, which computes the layout, is missing")
    groups = np.repeat(np.eye(3), 20, axis=0) + rng.normal(size=(60, 3)) / 20
    write_page(Vectors(map(str, range(60)), groups), tmp_path / "page.html", layout="tsne")
    points = np.array(data_of(tmp_path / "page.html")["points"]).reshape(3, 20, 2)
    assert np.ptp(points, 1).max() < np.linalg.norm(np.diff(points.mean(1), axis=0), axis=1).min()


def test_a_browser_shows_it(tmp_path, vectors):
    path = tmp_path / "page.html"
    write_page(vectors, path, words=6, topn=3, title="<i>Six</i> & one")
    for word in WORDS[2:5]:
        url = path.as_uri() + "#" + word.replace('"', "%22").replace(" ", "%20")
        dom, pixels, console = open_page(url, tmp_path)
        assert console == []
        assert f"<h2>{html.escape(word, quote=False)}</h2>" in dom
        shown = re.search("<ol>(.*)</ol>", dom)[1]
        names = re.findall("<(?:a|span)[^>]*>([^<]*)</(?:a|span)><span>", shown)
        expected = [other for other, _ in vectors.most_similar(word, topn=3)]
        assert [html.unescape(name) for name in names] == expected
        map_ = pixels[:, :850]
        orange = (map_[..., 0] > 0.7) & (map_[..., 1] < 0.4) & (map_[..., 2] < 0.2)
        assert orange.sum() > 50  # the word, at its dot
    narrow = open_page(path.as_uri(), tmp_path, width=500).pixels
    assert np.ptp(narrow[:400]) > 0.5 and np.ptp(narrow[480:]) > 0.5  # the map above, then text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"words": 2}, "words=2"),
        ({"words": ["king", "queen"]}, "words has 2 words"),
        ({"topn": 0}, "topn=0"),
        ({"layout": "umap"}, "layout='umap' must be one of"),
    ],
)
def test_errors(tmp_path, vectors, given, message):
    with pytest.raises(ValueError, match=message):
        write_page(vectors, tmp_path / "page.html", **given)
    with pytest.raises(KeyError, match="'duke' is none"):
        write_page(vectors, tmp_path / "page.html", words=["king", "queen", "duke"])
    assert not list(tmp_path.iterdir())


def test_without_scikit_learn(tmp_path, vectors, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        write_page(vectors, tmp_path / "page.html", layout="tsne")


def test_command(tmp_path, vectors, capsys):
    Vectors(WORDS[:3] + WORDS[4:], vectors.matrix[:-1]).save(tmp_path / "v.bin")
    output = tmp_path / "page.html"
    assert main(["word2vec", "page", str(tmp_path / "v.bin"), str(output), "--words", "4"]) == 0
    assert capsys.readouterr().out == f"{output}: a map of 4 words; open it in a browser\n"
    assert "<title>v.bin</title>" in output.read_text("utf-8")
    no_folder = str(tmp_path / "none" / "page.html")
    assert main(["word2vec", "page", str(tmp_path / "v.bin"), no_folder]) == 1
    assert "cannot be written" in capsys.readouterr().err
