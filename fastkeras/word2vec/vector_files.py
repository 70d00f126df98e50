"""Vectors in files: word2vec's text and binary, GloVe's text, NumPy's, gensim's objects."""

import gzip
import itertools
import re
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from fastkeras.word2vec import subword_vectors
from fastkeras.word2vec.saving import atomic
from fastkeras.word2vec.text_files import uncompressed
from fastkeras.word2vec.vectors import Vectors

SUFFIXES = {".bin": "binary", ".txt": "text", ".vec": "text", ".npy": "npy", ".tsv": "projector"}
READ = 1 << 22  # bytes at a time
LONGEST_LINE = 1 << 20  # bytes in which a first line of text must end


def save(vectors, path, format=None):
    """Write vectors to a file that other programs read too.

    The files are there in full or not at all, whatever interrupts the writing.

    Args:
        vectors: `Vectors`.
        path: where to; a name ending in `.gz` is compressed.
        format: None takes it from the path's suffix.

            - `"binary"` (`.bin`): word2vec's, 32-bit floats; gensim, fastText and spaCy read it.
            - `"text"` (`.txt`, `.vec`): word2vec's, a line for each word after a line with their
              number and the vectors' size; as many digits as the numbers need.
            - `"npy"` (`.npy`): NumPy's, with the words in a file of the same name with the suffix
              `.words`, a line each. `load` maps it, so that it is there at once and shared by
              processes.
            - `"projector"` (`.tsv`): for projector.tensorflow.org: vectors in `path`, words in
              `metadata.tsv` beside it.

    Raises:
        ValueError: the suffix tells no format, or a word has a character that ends it there.
    """
    path = Path(path)
    format = format_of(path, format)
    zipped = path.suffix == ".gz"
    if format == "npy":
        _check_words(vectors.words, "\n", path)
        with atomic(path.with_suffix(".words")) as words, atomic(path) as file:
            words.write("".join(f"{word}\n" for word in vectors.words).encode())
            np.save(file, vectors.matrix, allow_pickle=False)
        return
    if format == "projector":
        _check_words(vectors.words, "\t\n", path)
        with atomic(path.with_name("metadata.tsv")) as metadata, atomic(path) as file:
            metadata.write("".join(f"{word}\n" for word in vectors.words).encode())
            for numbers in _digits(vectors.matrix, "\t"):
                file.write(numbers + b"\n")
        return
    _check_words(vectors.words, " \n", path)
    with (
        atomic(path) as raw,
        gzip.GzipFile("", "wb", 6, raw) if zipped else nullcontext(raw) as file,
    ):
        file.write(f"{len(vectors)} {vectors.size}\n".encode())
        if format == "binary":
            for word, row in zip(vectors.words, vectors.matrix, strict=True):
                file.write(word.encode() + b" " + row.astype("<f4").tobytes() + b"\n")
        else:
            for word, row in zip(vectors.words, _digits(vectors.matrix, " "), strict=True):
                file.write(word.encode() + b" " + row + b"\n")


def format_of(path, format=None):
    """Return the format that `save` takes for a path, or raise ValueError if there is none."""
    path = Path(path)
    zipped = path.suffix == ".gz"
    suffix = Path(path.stem).suffix if zipped else path.suffix
    found = format or SUFFIXES.get(suffix)
    if found not in SUFFIXES.values():
        raise ValueError(
            f"format={format!r} of {path}: it must be one of {sorted(set(SUFFIXES.values()))}, or "
            f"the path must end in one of {', '.join(SUFFIXES)}"
        )
    if found == "npy" and path.suffix != ".npy":
        raise ValueError(f"path={str(path)!r} must end in .npy")
    if found == "projector" and zipped:
        raise ValueError(f"path={str(path)!r} must end in .tsv")
    return found


def load(path, limit=None, errors="strict"):
    """Read what `save`, word2vec, gensim, fastText (`.vec`) or GloVe have written.

    The format is found from the content, plain or compressed (gzip, bzip2, xz, Zstandard).

    Args:
        path: the file; for `.npy` the words must be beside it.
        limit: read only that many words, the first; None reads all.
        errors: what to do with a word that is not UTF-8: `"strict"` raises, `"replace"` puts
            U+FFFD into it.

    Returns:
        `Vectors` of 32-bit floats, or of what a `.npy` file has, which is mapped. Of a word that
        comes twice the first vector is kept, with a warning.

    Raises:
        ValueError: the file is damaged or ends too early, with its line or byte.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} must be at least 1")
    if path.suffix == ".npy":
        return _load_npy(path, limit)
    with open(path, "rb") as raw, uncompressed(raw) as file:
        try:
            words, matrix = _read(_Reader(file, path), limit, errors)
        except (EOFError, OSError) as error:
            raise ValueError(f"{path} is damaged after byte {raw.tell()}: {error}") from error
    return _without_repeats(words, matrix, path)


def _read(reader, limit, errors):
    first = reader.peek_line()
    header = re.fullmatch(rb"(\d+)[ \t]+(\d+)\s*", first)
    if header:
        reader.until(b"\n")
        num_words, size = map(int, header.groups())
        is_text = _is_row(reader.peek_line(), size)
    else:
        num_words, size, is_text = None, len(_fields(first, -1)) - 1, True
    if size < 1 or not (header or _is_row(first, size)):
        raise ValueError(
            f"{reader.path}, line 1: {first[:60]!r} is neither `words size` nor a word and numbers"
        )
    wanted = num_words if limit is None else min(limit, num_words or limit)
    words, numbers = [], bytearray()
    for word, row in (_text_rows if is_text else _binary_rows)(reader, size, wanted, bool(header)):
        try:
            words.append(word.decode("utf-8", errors))
        except UnicodeDecodeError:
            raise ValueError(
                f"{reader.path}: word {len(words)} is not UTF-8: {word[:60]!r}; errors='replace' "
                "reads it all the same"
            ) from None
        numbers += row
    if wanted == num_words and reader.rest().strip():
        raise ValueError(f"{reader.path} goes on after its {num_words} words")
    matrix = np.frombuffer(numbers, "<f4") if numbers else np.empty(0)
    return words, matrix.astype(np.float32, copy=False).reshape(-1, size)


class _Reader:
    """Bytes up to a separator, or a number of them, with the position for messages."""

    def __init__(self, file, path):
        self.file, self.path = file, path
        self.data, self.at, self.before = b"", 0, 0

    @property
    def byte(self):
        return self.before + self.at

    def _more(self):
        part = self.file.read(READ)
        self.before += self.at
        self.data, self.at = self.data[self.at :] + part, 0
        return bool(part)

    def until(self, separator):
        """Return what comes up to the separator, and with it; at the file's end, what is left."""
        while (end := self.data.find(separator, self.at)) < 0:
            if not self._more():
                end = len(self.data)
                break
        return self.take(end + 1 - self.at)

    def take(self, size):
        while len(self.data) - self.at < size and self._more():
            pass
        taken = self.data[self.at : self.at + size]
        self.at += len(taken)
        return taken

    def peek_line(self):
        while b"\n" not in self.data[self.at :] and len(self.data) < LONGEST_LINE and self._more():
            pass
        return self.data[self.at :].partition(b"\n")[0]

    def rest(self):
        return self.take(READ)


def _fields(line, size):
    """Cut a line into its word, which may have spaces, and `size` numbers as text."""
    return line.rstrip(b" \r\n").rsplit(b" ", size)


def _is_row(line, size):
    try:
        return len([float(number) for number in _fields(line, size)[1:]]) == size
    except ValueError:
        return False


def _text_rows(reader, size, wanted, number):
    for count in itertools.count() if wanted is None else range(wanted):
        line = reader.until(b"\n")
        number += 1
        if not line.strip() and not reader.peek_line():
            if wanted is None:
                return
            raise ValueError(
                f"{reader.path}, line {number}: it ends after {count} of {wanted} words"
            )
        fields = _fields(line, size)
        try:
            row = np.array(list(map(float, fields[1:])), "<f4")
        except ValueError:
            row = ()
        if len(row) != size:
            raise ValueError(
                f"{reader.path}, line {number}: {line[:60]!r} is not a word and {size} numbers"
            )
        yield fields[0], row.tobytes()


def _binary_rows(reader, size, wanted, _):
    for count in range(wanted):
        word = reader.until(b" ")
        row = reader.take(4 * size)
        if len(row) < 4 * size:
            raise ValueError(
                f"{reader.path} ends at byte {reader.byte}, after {count} of {wanted} words"
            )
        yield word[:-1].lstrip(b"\n"), row  # word2vec ends a row with a line feed, gensim does not


def _load_npy(path, limit):
    words_path = path.with_suffix(".words")
    words = words_path.read_bytes().decode().split("\n")
    if words.pop():
        raise ValueError(f"{words_path}, line {len(words) + 1}: it has no line feed at its end")
    try:
        matrix = np.load(path, mmap_mode="r")
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if matrix.ndim != 2 or len(matrix) != len(words):
        raise ValueError(
            f"{path} has shape {matrix.shape}, but {words_path} has {len(words)} words"
        )
    return Vectors(words[:limit], matrix[:limit])


def _without_repeats(words, matrix, path):
    first = {}
    for i, word in enumerate(words):
        first.setdefault(word, i)
    if len(first) == len(words):
        return Vectors(words, matrix)
    warnings.warn(
        f"{path} has {len(words) - len(first)} words again, whose first vectors are kept",
        stacklevel=3,
    )
    return Vectors(first, matrix[list(first.values())])


def to_gensim(vectors):
    """Return the vectors as gensim's `KeyedVectors` or `FastTextKeyedVectors`; they are copied."""
    if isinstance(vectors, subword_vectors.SubwordVectors):
        return subword_vectors.to_gensim(vectors)
    from gensim.models import KeyedVectors

    keyed = KeyedVectors(vectors.size, dtype=vectors.matrix.dtype)
    keyed.add_vectors(vectors.words, vectors.matrix)
    return keyed


def from_gensim(keyed):
    """Return `Vectors` of gensim's `KeyedVectors` (a model's `wv`); only FastText's are copied."""
    if hasattr(keyed, "vectors_ngrams"):
        return subword_vectors.from_gensim(keyed)
    return Vectors(keyed.index_to_key, keyed.vectors)


def _check_words(words, ends, path):
    pattern = re.compile(f"[{re.escape(ends)}]")
    for word in words:
        if not word or pattern.search(word):
            raise ValueError(
                f"{word!r} cannot be in {path}: words there must have a letter, and none of "
                f"{list(ends)}; '.npy' takes all but line feeds"
            )


def _digits(matrix, separator):
    """Yield each row as text: the digits that tell apart all floats of its kind."""
    number = "%.17g" if matrix.dtype == np.float64 else "%.9g"
    line = separator.join([number] * matrix.shape[1])
    for row in matrix:
        yield (line % tuple(row.tolist())).encode()
