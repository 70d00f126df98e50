"""What is compiled reads files and keeps the best of a search exactly as Python and NumPy do."""

import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkeras.word2vec.vectors import Vectors, row_files, search

pytest.importorskip("fastkeras._core", reason="nothing is compiled")

ODD_NUMBERS = (
    "0 -0 1 -1.5 +2 .5 5. 1e3 1E-3 -1e+2 0.1234567890123456789 123456789012345678901 1e-30 1e-50 "
    "1e39 1e-400 1e400 nan inf - . e5 1e 1e+ 0x1 1_0 1.2.3 ١"
)
NUMBERS = st.sampled_from(ODD_NUMBERS.split())
PLAIN = st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr)
WORDS = st.sampled_from(["a", "b", "the", "世界", "New York", "1", "", "x\u00a0y", "-", "a\tb"])
GAPS = st.sampled_from([" ", " ", " ", " ", "\t", "  ", " \t"])
ENDS = st.sampled_from(["\n", "\n", "\n", "\n", " \n", "\r\n", "\t\n", "\n\n", ""])


@st.composite
def text_files(draw):
    size = draw(st.integers(1, 3))
    lines = []
    for _ in range(draw(st.integers(0, 6))):
        numbers = PLAIN if draw(st.integers(0, 5)) else NUMBERS
        fields = [draw(WORDS)]
        for _ in range(size if draw(st.integers(0, 12)) else draw(st.integers(0, 4))):
            fields += [draw(GAPS), draw(numbers)]
        lines.append("".join(fields) + draw(ENDS))
    header = f"{len(lines)} {size}\n" if draw(st.booleans()) else ""
    return (header + "".join(lines)).encode()


@st.composite
def binary_files(draw):
    size = draw(st.integers(1, 3))
    words = draw(st.lists(st.binary(max_size=3), max_size=5))
    rows = [draw(st.binary(min_size=4 * size, max_size=4 * size)) for _ in words]
    end = draw(st.sampled_from([b"", b"\n"]))
    body = b"".join(w + b" " + row + end for w, row in zip(words, rows, strict=True))
    cut = len(body) if draw(st.booleans()) else draw(st.integers(0, len(body)))
    return f"{len(words)} {size}\n".encode() + body[:cut]


def outcome(path, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            loaded = Vectors.load(path, **options)
        except ValueError as error:
            return str(error)
    return loaded.words, loaded.matrix.tobytes(), [str(warning.message) for warning in caught]


@given(
    content=text_files() | binary_files(),
    read=st.sampled_from([8, 50, 1 << 20]),
    limit=st.sampled_from([None, 1, 3]),
    errors=st.sampled_from(["strict", "replace"]),
)
def test_files(tmp_path_factory, content, read, limit, errors):
    path = tmp_path_factory.mktemp("files") / "vectors"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_files, "READ", read)
        compiled = outcome(path, limit=limit, errors=errors)
        patch.setitem(sys.modules, "fastkeras._core", None)
        assert compiled == outcome(path, limit=limit, errors=errors)


def test_a_file_of_many_blocks_and_threads(tmp_path):
    rng = np.random.default_rng(0)
    vectors = Vectors([f"w{i}" for i in range(20_000)], rng.normal(size=(20_000, 30)).astype("f4"))
    for name in ("v.txt", "v.bin", "v.txt.gz"):
        vectors.save(tmp_path / name)
        loaded = Vectors.load(tmp_path / name)
        assert loaded.words == vectors.words
        np.testing.assert_array_equal(loaded.matrix, vectors.matrix)


@given(
    seed=st.integers(0, 2**32),
    topn=st.integers(1, 30),
    columns=st.integers(1, 200),
    dtype=st.sampled_from(["f4", "f8"]),
)
def test_the_best_of_blocks(seed, topn, columns, dtype):
    from fastkeras._core import word2vec_keep_best

    rng = np.random.default_rng(seed)
    bests = [np.full((3, topn), -np.inf, dtype) for _ in range(2)]
    rows = [np.zeros((3, topn), np.int64) for _ in range(2)]
    for begin in range(0, 3 * columns, columns):
        scores = rng.integers(-4, 5, (3, columns)).astype(dtype)  # with many ties
        scores[rng.random(scores.shape) < 0.1] = -np.inf
        scales = rng.choice(np.array([0.5, 1, 2], dtype), columns)
        word2vec_keep_best(scores, scales, begin, bests[0], rows[0])
        search._keep_best(scores.copy(), scales, begin, bests[1], rows[1])
    np.testing.assert_array_equal(bests[0], bests[1])
    finite = np.isfinite(bests[0])
    np.testing.assert_array_equal(rows[0][finite], rows[1][finite])
