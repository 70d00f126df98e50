"""A map of words: their vectors in the two directions in which they differ most."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastkeras._files import replacing
from fastkeras.word2vec.arguments import (
    file_path,
    floats,
    instance,
    integer,
    number,
    shown,
    string,
    strings,
)
from fastkeras.word2vec.vectors import Vectors, unit_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fastkeras.typing import ArrayLike, FilePath

# Common system fonts with Chinese, Japanese and Korean characters, the plainest first.
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "Noto Sans SC", "PingFang SC",
    "Heiti SC", "Microsoft YaHei", "SimHei", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "Arial Unicode MS", "Unifont",
)  # fmt: skip
DISTANCES = (5, 14, 26, 40)  # points from a dot to its label; the smallest that fits is taken
ANGLES = np.radians([0, 180, 90, 270, 45, 135, 225, 315])


def principal_components(
    matrix: ArrayLike, dimensions: int = 2
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project rows on the directions in which they vary most (PCA, by singular values).

    Args:
        matrix: array of shape (rows, size).
        dimensions: how many directions, at most min(rows, size).

    Returns:
        `(coordinates, shares)`: float64 arrays of shape (rows, dimensions), and (dimensions,): the
        share of the variance in each direction. In each direction the coordinate that is farthest
        from 0 is positive, so that a map does not depend on the library's choice of signs.

    Raises:
        ValueError: there are fewer rows or columns than dimensions, or a number is not finite.

    Example:
        >>> import numpy as np
        >>> from fastkeras.word2vec.projection import principal_components
        >>> matrix = np.array([[0, 0, 1], [0, 0, 4], [0, 0, 1]])
        >>> coordinates, shares = principal_components(matrix, 1)
        >>> coordinates[:, 0].round(3) + 0.0, shares
        (array([-1.,  2., -1.]), array([1.]))
    """
    matrix = floats("matrix", matrix)
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise ValueError(
            f"matrix has shape {matrix.shape}; it must be (rows, size), of finite numbers"
        )
    if not 1 <= integer("dimensions", dimensions) <= min(matrix.shape):
        raise ValueError(
            f"dimensions={dimensions} must be from 1 to {min(matrix.shape)}, the lesser of "
            f"matrix's shape {matrix.shape}"
        )
    left, values, _ = np.linalg.svd(matrix - matrix.mean(0), full_matrices=False)
    coordinates = left[:, :dimensions] * values[:dimensions]
    farthest = np.abs(coordinates).argmax(0)
    coordinates *= np.where(coordinates[farthest, np.arange(dimensions)] < 0, -1, 1)
    variance = values**2
    return coordinates, variance[:dimensions] / (variance.sum() or 1)


def draw_map(
    vectors: Vectors,
    words: Sequence[str],
    path: FilePath,
    title: str | None = None,
    groups: Sequence[str] | None = None,
    size: tuple[float, float] = (9, 7),
) -> None:
    """Draw words at the first two principal components of their vectors, scaled to length 1.

    Args:
        vectors: `Vectors`.
        words: list of at least three words.
        path: of the picture; its suffix tells the format, `.png`, `.svg` or `.pdf`.
        title: string above the map.
        groups: the name of each word's group; a group has one colour, shown in a legend.
        size: width and height in inches.

    Raises:
        ImportError: Matplotlib is not installed.
        KeyError: a word has no vector.
        ValueError: there are fewer than three words, `groups` has another length, or the suffix
            is of no known format.

    Example:
        >>> draw_map(vectors, ["cat", "dog", "car"], "map.png")  # doctest: +SKIP

    Labels are moved apart, with a line to their dots. Words in Chinese, Japanese or Korean need a
    font with their characters; a warning tells if none is installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("a map is drawn with Matplotlib: pip install matplotlib") from None
    instance("vectors", vectors, Vectors)
    format = Path(file_path("path", path)).suffix[1:].lower()
    if format not in FigureCanvasAgg.get_supported_filetypes():
        raise ValueError(f"path={str(path)!r} must end in .png, .svg or .pdf")
    words = strings("words", words)
    if np.shape(size) != (2,) or not all(number("size", side) > 0 for side in size):
        raise ValueError(f"size={shown(size)} must be a width and a height")
    if title is not None:
        string("title", title)
    if len(words) < 3:
        raise ValueError(f"words has {len(words)} words; a map needs 3 at least")
    groups = None if groups is None else strings("groups", groups)
    if groups is not None and len(groups) != len(words):
        raise ValueError(f"groups has {len(groups)} names for {len(words)} words")
    points, shares = principal_components(unit_rows(vectors[words].astype(np.float64)))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.margins(0.12)
    axes.grid(color="0.93")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"first principal component ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"second principal component ({shares[1]:.0%} of the variance)")
    fonts = fonts_with("".join([*words, title or "", *map(str, groups or ())]))
    names = list(dict.fromkeys(groups)) if groups is not None else [""]
    for i, name in enumerate(names):
        of_name = [groups is None or group == name for group in groups or words]
        x, y = points[of_name].T
        axes.scatter(x, y, s=16, color=f"C{i}", label=name)
    if groups is not None:
        axes.legend(frameon=False, prop={"family": fonts})
    axes.set_title(title or "", family=fonts)
    colors = [f"C{names.index(group)}" if groups is not None else "C0" for group in groups or words]
    with warnings.catch_warnings():  # fonts_with warns once, Matplotlib for every character
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        _label(figure, axes, points, words, fonts, colors)
        with replacing(path) as file:
            figure.savefig(file, format=format)


def _label(figure, axes, points, words, fonts, colors):
    """Put each word as near to its dot as possible without covering a dot or another word."""
    figure.draw_without_rendering()
    pixels = figure.dpi / 72
    dots = axes.transData.transform(points)
    taken = [np.array([*dot - 3 * pixels, *dot + 3 * pixels]) for dot in dots]
    frame = axes.get_window_extent().extents
    for word, point, dot, color in zip(words, points, dots, colors, strict=True):
        label = axes.annotate(
            word, point, (0, 0), textcoords="offset points", ha="center", va="center", fontsize=9,
            family=fonts, color="0.15", parse_math=False,
        )  # fmt: skip
        extent = label.get_window_extent()
        half = np.array([extent.width, extent.height]) / 2
        places = []
        for distance in DISTANCES:
            for angle in ANGLES:
                way = np.array([np.cos(angle), np.sin(angle)])
                center = dot + way * (half + distance * pixels)
                box = np.array([*center - half, *center + half])
                outside = np.any(box[:2] < frame[:2]) or np.any(box[2:] > frame[2:])
                places.append((sum(_overlap(box, other) for other in taken) + 1e6 * outside, box))
                if places[-1][0] == 0:
                    break
            if places[-1][0] == 0:
                break
        _, box = min(places, key=lambda place: place[0])
        taken.append(box)
        center = (box[:2] + box[2:]) / 2
        label.set_position((center - dot) / pixels)
        if distance > DISTANCES[0]:
            end = axes.transData.inverted().transform(np.clip(dot, box[:2], box[2:]))
            axes.plot(*zip(point, end, strict=True), color=color, linewidth=0.5, alpha=0.6)


def _overlap(a, b):
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return max(width, 0) * max(height, 0)


def fonts_with(text: str) -> list[str]:
    """Return fonts that together have the characters of a text; warn if there are none.

    Args:
        text: string.

    Returns:
        List of names, the font of Matplotlib's settings first.

    Example:
        >>> fonts_with("词")  # doctest: +SKIP
        ['DejaVu Sans', 'Noto Sans CJK SC']
    """
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    string("text", text)
    default = font_manager.FontProperties(family=["sans-serif"])
    family = [font_manager.get_font(font_manager.findfont(default)).family_name]
    signs = {ord(sign) for sign in text if not sign.isspace()}
    missing = signs - FT2Font(font_manager.findfont(default)).get_charmap().keys()
    if not missing:
        return family
    installed: dict[str, str] = {}
    for font in font_manager.fontManager.ttflist:
        if "Last Resort" not in font.name:  # it shows a box for every character
            installed.setdefault(font.name, font.fname)
    preferred = [name for name in CJK_FONTS if name in installed]
    for name in [*preferred, *sorted(installed.keys() - {*preferred})]:
        if not missing - FT2Font(installed[name]).get_charmap().keys():
            return [*family, name]
    warnings.warn(
        f"no installed font has {''.join(map(chr, sorted(missing)[:10]))}, which will be boxes; "
        "install one, for example the package fonts-noto-cjk or fonts-wqy-zenhei",
        stacklevel=3,
    )
    return family
