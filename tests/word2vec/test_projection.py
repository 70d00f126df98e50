"""The map of words."""

import re
import sys

import numpy as np
import pytest

from fastkeras.word2vec import projection
from fastkeras.word2vec.projection import draw_map, principal_components
from fastkeras.word2vec.vectors import Vectors


def test_principal_components_are_the_eigenvectors_of_the_covariance(rng):
    matrix = rng.normal(size=(30, 6)) @ rng.normal(size=(6, 6))
    coordinates, shares = principal_components(matrix, 3)
    values, directions = np.linalg.eigh(np.cov(matrix.T, bias=True))
    expected = (matrix - matrix.mean(0)) @ directions[:, :-4:-1]
    np.testing.assert_allclose(np.abs(coordinates), np.abs(expected), atol=1e-10)
    np.testing.assert_allclose(shares, values[:-4:-1] / values.sum(), atol=1e-12)
    assert np.all(coordinates[np.abs(coordinates).argmax(0), range(3)] > 0)
    np.testing.assert_allclose(principal_components(-matrix @ directions, 3)[1], shares)


def test_principal_components_of_equal_rows():
    coordinates, shares = principal_components(np.ones((4, 3)))
    np.testing.assert_array_equal(coordinates, 0)
    np.testing.assert_array_equal(shares, 0)


@pytest.fixture
def matplotlib():
    return pytest.importorskip("matplotlib", reason="Matplotlib is not installed")


@pytest.fixture
def vectors(rng):
    words = ["king", "queen", "prince", "cat", "dog", "goat", "New York", "$x_$"]
    return Vectors(words, rng.normal(size=(len(words), 5)).astype(np.float32))


def boxes(figure):
    """The labels' boxes, in pixels."""
    return [text.get_window_extent().extents for text in figure.axes[0].texts]


def test_a_map_has_every_word_and_none_covers_another(tmp_path, monkeypatch, matplotlib, vectors):
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *a, **o: (figures.append(figure), save(figure, *a, **o))
    )
    groups = ["royalty"] * 3 + ["animals"] * 3 + ["others"] * 2
    draw_map(vectors, vectors.words, tmp_path / "map.png", title="Words", groups=groups)
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    assert [text.get_text() for text in figure.axes[0].texts] == vectors.words  # in their order
    places = boxes(figure)
    for i, a in enumerate(places):
        assert all(projection._overlap(a, b) == 0 for b in places[:i])
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["royalty", "animals", "others"]
    draw_map(vectors, vectors.words, tmp_path / "map.svg")


def test_signs_that_no_font_has(tmp_path, monkeypatch, matplotlib):
    from matplotlib import font_manager

    fonts = [font for font in font_manager.fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    cities = Vectors(["北京", "上海", "Paris"], np.eye(3))
    with pytest.warns(
        UserWarning, match="no installed font has 上京北海.*fonts-noto-cjk"
    ) as caught:
        draw_map(cities, cities.words, tmp_path / "map.png")
    assert len(caught) == 1
    assert (tmp_path / "map.png").exists()


def test_errors(tmp_path, monkeypatch, vectors):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        draw_map(vectors, vectors.words, tmp_path / "map.png")
    with pytest.raises(ValueError, match=re.escape("dimensions=2 must be from 1 to 1")):
        principal_components(np.ones((1, 5)))


def test_errors_of_the_words(tmp_path, matplotlib, vectors):
    with pytest.raises(ValueError, match="words has 2 words; a map needs 3"):
        draw_map(vectors, ["king", "queen"], tmp_path / "map.png")
    with pytest.raises(ValueError, match="groups has 1 names for 3 words"):
        draw_map(vectors, vectors.words[:3], tmp_path / "map.png", groups=["a"])
    with pytest.raises(KeyError, match="'duke' is none"):
        draw_map(vectors, ["king", "queen", "duke"], tmp_path / "map.png")
