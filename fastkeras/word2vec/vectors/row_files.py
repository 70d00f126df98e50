"""The rows of vector files, text or word2vec's binary; error messages tell the place."""

import itertools
import math
import re

import numpy as np

READ = 1 << 22  # bytes at a time
LONGEST_WORD = 1 << 20  # bytes, also of the first line; a file with more is not of vectors
LARGEST_SIZE = 1 << 20  # of a vector
LONGEST_NUMBER = 64  # characters
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# How many times larger a file may be uncompressed. For vectors it is ten times at most; a file that
# exceeds this by far is made to exhaust the memory. Up to 16 MiB any ratio is accepted.
PLAUSIBLE_RATIO, ALWAYS_PLAUSIBLE = 100, 16 << 20

FASTTEXT = b"\xba\x16\x4f\x2f"  # the first bytes of its models
OTHER_FORMATS = {  # by the first bytes
    FASTTEXT: "a model of fastText, which is read by `Vectors.load` if it is not compressed",
    b"PK\x03\x04": "a zip file: unpack it first; a model of `Word2Vec.save` is read by "
    "`Word2Vec.load`",
    b"\x93NUMPY": "an array of NumPy, whose name must end in .npy",
    b"\x89HDF": "an HDF5 file",
    b"\x80\x02": "a pickle of Python, which is not read; what gensim has saved is read by gensim: "
    "`fastkeras.word2vec.vectors.gensim_vectors.load_gensim`",
    b"\xff\xfe": "text in UTF-16; it must be UTF-8",
    b"\xfe\xff": "text in UTF-16; it must be UTF-8",
}
for _protocol in b"\x03", b"\x04", b"\x05":
    OTHER_FORMATS[b"\x80" + _protocol] = OTHER_FORMATS[b"\x80\x02"]


class Reader:
    """Bytes up to a separator, or a number of them, with the position for messages.

    Args:
        file: open, in binary, perhaps decompressing.
        path: for messages.
        size: of the file on the disk, where that is compressed.
    """

    def __init__(self, file, path, size=None):
        self.file, self.path = file, path
        self.most = None if size is None else max(ALWAYS_PLAUSIBLE, PLAUSIBLE_RATIO * size)
        self.data, self.at, self.before = b"", 0, 0

    @property
    def byte(self):
        return self.before + self.at

    def more(self):
        """Read on; whether there was anything."""
        part = self.file.read(READ)
        self.before += self.at
        self.data, self.at = self.data[self.at :] + part, 0
        if self.most is not None and self.before + len(self.data) > self.most:
            raise ValueError(
                f"{self.path} would be more than {PLAUSIBLE_RATIO} times as large uncompressed, "
                f"which vectors are not: it was read up to {self.most} bytes"
            )
        return bool(part)

    def rest(self):
        """Return what has been read and not yet been taken."""
        return self.data[self.at :] if self.at else self.data

    def until(self, separator, most, what):
        """Return the bytes up to and including the separator; at the file's end, what is left."""
        searched = self.at
        while (end := self.data.find(separator, searched)) < 0:
            searched = len(self.data) - self.at
            if searched > most:
                raise ValueError(
                    f"{self.path}: {what} after byte {self.byte} has more than {most} bytes"
                )
            if not self.more():
                end = len(self.data)
                break
        return self.take(end + 1 - self.at)

    def take(self, size):
        while len(self.data) - self.at < size and self.more():
            pass
        taken = self.data[self.at : self.at + size]
        self.at += len(taken)
        return taken

    def skip(self, start):
        """Skip these bytes if they are next."""
        while len(self.data) - self.at < len(start) and self.more():
            pass
        if self.data.startswith(start, self.at):
            self.at += len(start)

    def peek_line(self):
        while b"\n" not in self.data[self.at :] and len(self.data) < LONGEST_WORD and self.more():
            pass
        return self.data[self.at :].partition(b"\n")[0]

    def ends_here(self):
        """Whether nothing follows but whitespace."""
        while not self.data[self.at :].strip():
            self.at = len(self.data)
            if not self.more():
                return True
        return False


def read(reader, limit, errors):
    """Read words and rows.

    Args:
        reader: `Reader`.
        limit: how many rows at most; None for all.
        errors: "strict" or "replace", of words that are not UTF-8.

    Returns:
        `(words, matrix, name of the place of a row)`.

    Raises:
        ValueError: the file is of another format, is damaged, or ends too early.
    """
    reader.skip(BYTE_ORDER_MARK)
    first = reader.peek_line()
    for start, name in OTHER_FORMATS.items():
        if first.startswith(start):
            raise ValueError(f"{reader.path} is {name}")
    header = re.fullmatch(rb"\s*(\d+)[ \t]+(\d+)\s*", first)
    if header:
        reader.until(b"\n", LONGEST_WORD, "the first line")
        num_words, size = (int(number[:18]) for number in header.groups())
        second = reader.peek_line()
        is_text = _fields(second, size) is not None or _looks_like_a_row(second, size)
    else:
        num_words, size, is_text = None, _size_of_row(first), True
    if size < 1:
        raise ValueError(
            f"{reader.path}, line 1: {first[:60]!r} is neither `words size` nor a word and numbers"
        )
    if size > LARGEST_SIZE:
        raise ValueError(
            f"{reader.path}, line 1: vectors of size {size}; at most {LARGEST_SIZE} is possible"
        )
    given = [number for number in (num_words, limit) if number is not None]
    wanted = min(given, default=None)
    words, numbers = [], bytearray()
    most = math.inf if wanted is None else wanted
    _read_plain_rows(reader, size, most, is_text, errors, words, numbers)
    rows = _text_rows if is_text else _binary_rows
    for word, row in rows(reader, size, wanted, bool(header), len(words)):
        words.append(_decoded(word, len(words), errors, reader.path))
        numbers += row
    if wanted == num_words and wanted is not None and not reader.ends_here():
        raise ValueError(f"{reader.path} goes on after its {num_words} words")
    matrix = np.frombuffer(numbers, "<f4") if numbers else np.empty(0)
    matrix = matrix.astype(np.float32, copy=False).reshape(-1, size)
    first_line = 1 + bool(header)
    return words, matrix, lambda row: f"line {first_line + row}" if is_text else f"word {row}"


def _read_plain_rows(reader, size, most, is_text, errors, words, numbers):
    """Add rows to words and numbers, as long as they are in the form that programs write.

    What is left, after the last of them or in another form, is left to the caller.
    """
    try:
        from fastkeras._core import word2vec_read_rows
    except ImportError:  # nothing is compiled
        return
    longest = LONGEST_WORD + LONGEST_NUMBER * size
    while len(words) < most:
        block = reader.rest()
        bound = len(block) // (4 * size + 1)
        if is_text:
            bound = min(block.count(b"\n"), len(block) // (2 * size + 1))
        rows = np.empty((min(bound, most - len(words)), size), np.float32)
        found, count, end, others = word2vec_read_rows(block, rows, is_text, LONGEST_WORD)
        names = found.split(b"\n")[:count]
        for other in others:  # there may be many
            row, begin, stop = map(int, other)
            fields = _fields(block[begin:stop], size)
            if fields is None or not fields[0]:
                names, end = names[:row], begin
                break
            names[row], rows[row] = fields[0], _floats(fields[1])
        try:
            words += b"\n".join(names).decode().split("\n") if names else []
        except UnicodeDecodeError:
            for name in names:
                words.append(_decoded(name, len(words), errors, reader.path))
        if names:
            numbers += rows[: len(names)].data.cast("B")
        reader.at += end
        if len(names) < count or (not names and len(block) > longest) or not reader.more():
            return


def _floats(numbers):  # infinities are refused later, with their place
    with np.errstate(over="ignore"):
        return np.array(numbers, "<f4")


def _decoded(word, number, errors, path):
    try:
        return word.decode("utf-8", errors)
    except UnicodeDecodeError:
        raise ValueError(
            f"{path}: word {number} is not UTF-8: {word[:60]!r}; errors='replace' reads it all "
            "the same"
        ) from None


def _size_of_row(line):
    """Return how many numbers follow the word of a first line, or 0."""
    for separator in (None,) if b"\t" in line else (b" ", None):
        size = len(line.strip(b" \r").split(separator)) - 1
        if size > 0 and _fields(line, size) is not None:
            return size
    return 0


_NUMBER = re.compile(rb"[-+]?\d*\.?\d+([eE][-+]?\d+)?|[-+]?\d+\.")


def _looks_like_a_row(line, size):
    """Whether a line is a faulty row of a text file, rather than binary."""
    fields = line.split()[1:]
    try:
        readable = line.rstrip(b"\r").decode().replace("\t", " ").isprintable()
    except UnicodeDecodeError:
        return False
    numbers = sum(_NUMBER.fullmatch(field) is not None for field in fields)
    return readable and len(fields) >= max(size - 1, 2) and 2 * numbers >= size


def _fields(line, size):
    """Cut a line into its word, which may have spaces, and its numbers; None if it is not a row.

    They are separated by single spaces, or if that gives no row by any spaces and tabs.
    """
    for separator in (b" ", None):
        fields = line.rstrip(b" \r\n").rsplit(separator, size)
        if len(fields) != size + 1:
            continue
        try:
            numbers = list(map(float, fields[1:]))
        except ValueError:
            continue
        if b"_" in line and b"_" in b"".join(fields[1:]):  # Python reads 1_000 as a number
            continue
        word = fields[0].strip(b" ")
        if b" " not in word or not _NUMBER.fullmatch(word.split()[-1]):  # else one number too many
            return word, numbers
    return None


def _text_rows(reader, size, wanted, number, first):
    most = LONGEST_WORD + LONGEST_NUMBER * size
    number += first
    for count in itertools.count(first) if wanted is None else range(first, wanted):
        number += 1
        line = reader.until(b"\n", most, f"line {number}")
        if not line.strip() and not reader.peek_line():
            if wanted is None and reader.ends_here():
                return
            raise ValueError(
                f"{reader.path}, line {number}: it ends after {count} of {wanted} words"
            )
        fields = _fields(line, size)
        if fields is None or not fields[0]:
            raise ValueError(
                f"{reader.path}, line {number}: {line[:60]!r} is not a word and {size} numbers"
            )
        word, numbers = fields
        yield word, _floats(numbers).tobytes()


def _binary_rows(reader, size, wanted, _, first):
    for count in range(first, wanted):
        word = reader.until(b" ", LONGEST_WORD, f"word {count}")
        row = reader.take(4 * size)
        if len(row) < 4 * size:
            raise ValueError(
                f"{reader.path} ends at byte {reader.byte}, after {count} of {wanted} words"
            )
        word = word[:-1].lstrip(b"\n")  # word2vec ends a row with a line feed, gensim does not
        if not word:
            raise ValueError(f"{reader.path}: word {count} at byte {reader.byte} has no letter")
        yield word, row
