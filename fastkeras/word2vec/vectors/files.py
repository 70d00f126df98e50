"""Vectors in files: word2vec's text and binary, GloVe's text, NumPy's, the projector's."""

from __future__ import annotations

import gzip
import re
import warnings
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastkeras._files import replacing
from fastkeras.word2vec.arguments import choice, file_path, floats, integer, strings
from fastkeras.word2vec.corpus.text_files import DAMAGED, uncompressed
from fastkeras.word2vec.vectors import array_files, row_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from fastkeras.typing import FilePath

SUFFIXES = {".bin": "binary", ".txt": "text", ".vec": "text", ".npy": "npy", ".tsv": "projector"}
ROWS = 1 << 14  # checked at a time


def save(
    words: Sequence[str], matrix: NDArray[Any], path: FilePath, format: str | None = None
) -> None:
    """Write vectors to a file that other programs read too.

    An interruption leaves the old file or the new one, never a part of it.

    Args:
        words: list of strings.
        matrix: float array (words, size).
        path: where to; a name ending in `.gz` is compressed.
        format: None takes it from the path's suffix.

            - `"binary"` (`.bin`): word2vec's, 32-bit floats; gensim, fastText and spaCy read it.
            - `"text"` (`.txt`, `.vec`): word2vec's: first a line with the number of words and the
              vectors' size, then a line for each word; as many digits as the numbers need.
            - `"npy"` (`.npy`): NumPy's, with the words after the array, which NumPy ignores.
              `load` maps it into memory, which takes no time and lets processes share it.
            - `"projector"` (`.tsv`): for projector.tensorflow.org: vectors in `path`, words in
              `metadata.tsv` beside it.

            `fastkeras.word2vec.fasttext.save` writes fastText's models.

    Raises:
        ValueError: the suffix is of no known format, a word has a character that would end it in
            this format, or a vector has nan or inf.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = f"{tempfile.mkdtemp()}/vectors.txt"
        >>> save(["cat", "dog"], np.array([[1.0, 2.0], [3.0, 0.5]]), path)
        >>> print(Path(path).read_text())
        2 2
        cat 1 2
        dog 3 0.5
        <BLANKLINE>
    """
    path = Path(file_path("path", path))
    format = format_of(path, format)
    words = strings("words", words)
    matrix = matrix if hasattr(matrix, "codes") else floats("matrix", matrix, None)
    if matrix.ndim != 2 or len(matrix) != len(words) or matrix.dtype.kind != "f":
        raise ValueError(
            f"matrix is of {matrix.dtype} with shape {matrix.shape}; it must have floats, and a "
            f"row for each of {len(words)} words"
        )
    zipped = path.suffix == ".gz"
    check_words(words, {"npy": "\n", "projector": "\t\n"}.get(format, " \n"), path)
    check_finite(words, matrix, f"{path} would not be read again", lambda row: f"row {row}")
    if format == "npy":
        array_files.save_with_words(path, words, matrix)
        return
    if format == "projector":
        with replacing(path.with_name("metadata.tsv")) as metadata, replacing(path) as file:
            metadata.write("".join(f"{word}\n" for word in words).encode())
            for numbers in _digits(matrix, "\t"):
                file.write(numbers + b"\n")
        return
    with (
        replacing(path) as raw,
        gzip.GzipFile("", "wb", 6, raw) if zipped else nullcontext(raw) as file,
    ):
        file.write(f"{len(words)} {matrix.shape[1]}\n".encode())
        if format == "binary":
            for word, row in zip(words, matrix, strict=True):
                file.write(word.encode() + b" " + row.astype("<f4").tobytes() + b"\n")
        else:
            for word, row in zip(words, _digits(matrix, " "), strict=True):
                file.write(word.encode() + b" " + row + b"\n")


def format_of(path, format=None):
    """Return the format in which `save` writes a path, or raise ValueError if there is none."""
    path = Path(path)
    zipped = path.suffix == ".gz"
    suffix = Path(path.stem).suffix if zipped else path.suffix
    found = SUFFIXES.get(suffix) if format is None else format
    if not isinstance(found, str) or found not in SUFFIXES.values():
        raise ValueError(
            f"format={format!r} of {path}: it must be one of {sorted(set(SUFFIXES.values()))}, or "
            f"the path must end in one of {', '.join(SUFFIXES)}"
        )
    if found == "npy" and path.suffix != ".npy":
        raise ValueError(f"path={str(path)!r} must end in .npy")
    if found == "projector" and zipped:
        raise ValueError(f"path={str(path)!r} must end in .tsv")
    return found


def load(
    path: FilePath, limit: int | None = None, errors: str = "strict"
) -> tuple[list[str], NDArray[Any]]:
    """Read what `save`, word2vec, gensim, fastText (`.vec`) or GloVe have written.

    The format is recognized by the content, plain or compressed (gzip, bzip2, xz, Zstandard). A
    byte-order mark, tabs, several spaces, and lines that end with CR LF do no harm.

    Args:
        path: the file.
        limit: read only the first so many words; None reads all.
        errors: what to do with a word that is not UTF-8: `"strict"` raises, `"replace"` puts
            U+FFFD into it.

    Returns:
        `(words, matrix)`: 32-bit floats, or for a `.npy` file its mapped array. If a word occurs
        twice, its first vector is kept, with a warning.

    Raises:
        ValueError: the file is damaged, ends too early, is of another format, or has a vector with
            nan or inf; the message names the line, word or byte. So that no file can exhaust the
            memory, a vector may have at most 2²⁰ numbers, a word 2²⁰ bytes, and a compressed file
            may hold at most 100 times its size, or 16 MiB if that is more.

    Example:
        >>> import tempfile
        >>> path = f"{tempfile.mkdtemp()}/vectors.npy"
        >>> save(["cat", "dog"], np.array([[1.0, 2.0], [3.0, 0.5]]), path)
        >>> words, matrix = load(path)
        >>> words, matrix.tolist()
        (['cat', 'dog'], [[1.0, 2.0], [3.0, 0.5]])
    """
    path = Path(file_path("path", path))
    if limit is not None:
        limit = integer("limit", limit, 1, None)
    choice("errors", errors, ("strict", "replace"))
    if path.suffix == ".npy":
        words, matrix, place_of_words = array_files.load_with_words(path)
        words, matrix = words[:limit], matrix[:limit]
        if len(set(words)) < len(words):
            twice = Counter(words).most_common(1)[0][0]
            raise ValueError(f"{place_of_words} has the word {twice!r} twice")
        if place_of_words != path:  # `save` checks what it writes
            check_finite(words, matrix, path, lambda row: f"row {row}")
        return words, matrix
    with open(path, "rb") as raw, uncompressed(raw) as file:
        size = None if file is raw else path.stat().st_size
        try:
            words, matrix, place = row_files.read(row_files.Reader(file, path, size), limit, errors)
        except DAMAGED as error:
            raise ValueError(f"{path} is damaged after byte {raw.tell()}: {error}") from error
    check_finite(words, matrix, path, place)
    return _without_repeats(words, matrix, path)


def is_of_fasttext(path):
    """Return whether a file begins as a model of fastText does."""
    with open(path, "rb") as file:
        return file.read(4) == row_files.FASTTEXT


def check_finite(words, matrix, path, place):
    """Raise ValueError with the place of a row that has nan or inf."""
    for begin in range(0, len(matrix), ROWS):
        block = np.asarray(matrix[begin : begin + ROWS])
        with np.errstate(all="ignore"):
            if np.isfinite(block.sum(dtype=np.float64)):
                continue
        finite = np.isfinite(block).all(1)
        if not finite.all():
            row = begin + int(finite.argmin())
            numbers = matrix[row]
            number = numbers[~np.isfinite(numbers)][0]
            raise ValueError(
                f"{path}: {place(row)}: the vector of {words[row]!r} has {number}; all numbers "
                "must be finite"
            )


def _without_repeats(words, matrix, path):
    first = {}
    for i, word in enumerate(words):
        first.setdefault(word, i)
    if len(first) == len(words):
        return words, matrix
    warnings.warn(
        f"{path} has {len(words) - len(first)} words again, whose first vectors are kept",
        stacklevel=4,
    )
    return list(first), matrix[list(first.values())]


def check_words(words, ends, path):
    """Raise ValueError if a word is empty, no string, or has one of the characters `ends`."""
    pattern = re.compile(f"[{re.escape(ends)}]")
    for word in strings("words", words):
        if not word or pattern.search(word):
            raise ValueError(
                f"{word!r} cannot be in {path}: words there must have a letter, and none of "
                f"{list(ends)}; '.npy' takes all but line feeds"
            )


def _digits(matrix, separator):
    """Yield each row as text, with enough digits to read the same floats again."""
    number = "%.17g" if matrix.dtype == np.float64 else "%.9g"
    line = separator.join([number] * matrix.shape[1])
    for row in matrix:
        yield (line % tuple(row.tolist())).encode()
