"""The file format of fastText's models, version 12 (and 11): what is where, checked.

    int32 magic, version, 12 arguments; float64 sampling threshold
    int32 entries, words, labels; int64 words of the corpus, pairs of the pruned n-grams or −1
    an entry each: its letters, a zero byte, int64 count, int8 0 for a word and 1 for a label
    a pair each: int32 bucket, row
    one byte: is the input quantized?   the input matrix, dense or quantized
    one byte: is the output quantized?  the output matrix

All is little-endian. Matrices are mapped, not read: only rows that are used take memory.
"""

import mmap
import struct
from typing import NamedTuple

import numpy as np

from fastkeras.word2vec.arguments import file_path
from fastkeras.word2vec.fasttext.quantized import CODES, Books, QuantizedRows

MAGIC, VERSION = 793712314, 12
LARGEST_SIZE, LONGEST_WORD = 1 << 20, 1 << 20  # of a vector, and bytes of a word
ARGUMENTS = (
    "dim", "ws", "epoch", "minCount", "neg", "wordNgrams", "loss", "model", "bucket", "minn",
    "maxn", "lrUpdateRate",
)  # fmt: skip
LOSSES = {1: "hs", 2: "ns", 3: "softmax", 4: "ova"}
MODELS = {1: "cbow", 2: "skipgram", 3: "supervised"}
HEADER = struct.Struct(f"<ii{len(ARGUMENTS)}id")
SIZES, ENTRY = struct.Struct("<iiiqq"), struct.Struct("<qb")


class Contents(NamedTuple):
    """What such a file holds."""

    arguments: dict  # by the names that fastText has for them, and "t", the sampling threshold
    words: list  # of bytes
    counts: np.ndarray  # int64 (words,)
    labels: list  # of bytes; of a supervised model
    pruned: np.ndarray | None  # int32 (n-grams kept, 2): bucket and row, or None if all are kept
    input: object  # float32 (words + rows of n-grams, size): mapped array, or QuantizedRows
    output: object  # float32 (words or labels, size): the same


def read(path):
    """Read a model.

    Args:
        path: the file, not compressed.

    Returns:
        `Contents`.

    Raises:
        ValueError: it is not such a file, is damaged, or contradicts itself; the message names what
            and where. Whatever sizes it states, memory stays in proportion to its own.
    """
    file = _File(file_path("path", path))
    magic, version, *numbers, threshold = file.take(HEADER, "its header")
    if magic != MAGIC:
        raise ValueError(f"{path} is not a model of fastText: it begins with another number")
    if version not in (11, VERSION):
        raise ValueError(
            f"{path} is of version {version} of fastText's format; 11 and {VERSION} are read"
        )
    arguments = {**dict(zip(ARGUMENTS, numbers, strict=True)), "t": threshold}
    if version == 11 and arguments["model"] == 3:
        arguments["maxn"] = 0  # such models had no n-grams, whatever the file says
    _check(arguments, path)
    words, counts, labels, num_pruned = _dictionary(file)
    pruned = None
    if num_pruned >= 0:
        pruned = file.array("<i4", (num_pruned, 2), "the pruned n-grams").astype(np.int32)
    size = arguments["dim"]
    quantized = file.flag("whether its input is quantized")
    input_ = file.matrix("the input matrix", size, quantized)
    output = file.matrix(
        "the output matrix", size, file.flag("whether its output is quantized") and quantized
    )
    if file.at != file.size:
        raise ValueError(f"{path} goes on after its model, from byte {file.at} to {file.size}")
    rows_of_ngrams = len(input_) - len(words)
    expected = arguments["bucket"] if pruned is None else len(pruned)
    if rows_of_ngrams != expected:
        raise ValueError(
            f"{path}: the input matrix has {len(input_)} rows; its {len(words)} words and "
            f"{expected} n-grams need {len(words) + expected}"
        )
    if pruned is not None and len(pruned):
        buckets, rows = pruned.T
        if rows.min() < 0 or rows.max() >= expected or len(np.unique(buckets)) != expected:
            raise ValueError(f"{path}: the pruned n-grams have a row that is not there, or twice")
    return Contents(arguments, words, counts, labels, pruned, input_, output)


def _check(arguments, path):
    ranges = {
        "dim": (1, LARGEST_SIZE),
        "loss": (1, 4),
        "model": (1, 3),
        "bucket": (0, 2**31 - 1),
        "minn": (0, 2**31 - 1),
        "maxn": (0, 2**31 - 1),
    }
    for name, (lowest, highest) in ranges.items():
        if not lowest <= arguments[name] <= highest:
            raise ValueError(
                f"{path}: the argument {name} is {arguments[name]}; it must be from {lowest} to "
                f"{highest}"
            )
    if arguments["maxn"] >= max(arguments["minn"], 1) and not arguments["bucket"]:
        raise ValueError(f"{path}: maxn is {arguments['maxn']}, but there is no bucket for n-grams")


def _dictionary(file):
    """Read `(words, counts, labels, number of pruned n-grams)`."""
    entries, num_words, num_labels, _, num_pruned = file.take(SIZES, "the sizes of its dictionary")
    if min(num_words, num_labels) < 0 or num_words + num_labels != entries or num_pruned < -1:
        raise ValueError(
            f"{file.path}: the dictionary has {entries} entries, {num_words} words, {num_labels} "
            f"labels and {num_pruned} pruned n-grams, which contradict each other"
        )
    names, counts = [], []
    for number in range(entries):
        end = file.bytes.find(b"\0", file.at, file.at + LONGEST_WORD)
        if end < 0:
            raise ValueError(
                f"{file.path}: the dictionary breaks off at byte {file.at}, after {number} of "
                f"{entries} entries"
            )
        names.append(file.bytes[file.at : end])
        file.at = end + 1
        count, kind = file.take(ENTRY, f"entry {number} of its dictionary")
        if kind != (number >= num_words) or count < 0:
            raise ValueError(
                f"{file.path}: entry {number} of the dictionary has kind {kind} and count {count}; "
                f"the first {num_words} must be words, of kind 0"
            )
        counts.append(count)
    return names[:num_words], np.array(counts[:num_words], np.int64), names[num_words:], num_pruned


class _File:
    """A mapped file, and how far it has been read."""

    def __init__(self, path):
        self.path, self.at = path, 0
        with open(path, "rb") as file:
            self.size = file.seek(0, 2)
            if not self.size:
                raise ValueError(f"{path} is empty")
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _advance(self, length, what):
        if length > self.size - self.at:
            raise ValueError(
                f"{self.path} ends at byte {self.size}, within {what}, which needs {length} bytes "
                f"from byte {self.at} on"
            )
        self.at += length
        return self.at - length

    def take(self, numbers, what):
        return numbers.unpack_from(self.bytes, self._advance(numbers.size, what))

    def flag(self, what):
        return self.bytes[self._advance(1, what)] != 0

    def array(self, dtype, shape, what):
        dtype = np.dtype(dtype)
        elements = 1
        for length in shape:  # ints of Python do not overflow
            elements *= length
        begin = self._advance(elements * dtype.itemsize, what)
        return np.frombuffer(self.bytes, dtype, elements, begin).reshape(shape)

    def matrix(self, what, size, quantized):
        norms = quantized and self.flag(what)
        rows, columns = self.take(struct.Struct("<qq"), what)
        if rows < 0 or columns != size:
            raise ValueError(
                f"{self.path}: {what} has {rows} rows of size {columns}; the model's size is {size}"
            )
        if not quantized:
            return self.array("<f4", (rows, columns), what)
        (length,) = self.take(struct.Struct("<i"), what)
        begin = self.at
        self._advance(max(length, 0), what)
        books = self._books(what, size)
        if length != rows * books.num_parts:
            raise ValueError(
                f"{self.path}: {what} has {length} codes; {rows} rows of {books.num_parts} parts "
                f"need {rows * books.num_parts}"
            )
        codes = np.frombuffer(self.bytes, np.uint8, length, begin).reshape(rows, books.num_parts)
        if not norms:
            return QuantizedRows(codes, books)
        norm_codes = self.array(np.uint8, (rows,), what)
        return QuantizedRows(codes, books, norm_codes, self._books(what, 1))

    def _books(self, what, expected):
        size, parts, part, last = self.take(struct.Struct("<4i"), what)
        if (
            size != expected
            or part < 1
            or parts != -(-size // part)
            or last != (size - 1) % part + 1
        ):
            raise ValueError(
                f"{self.path}: {what} has code books for {parts} parts of {part} of {size} "
                f"numbers, the last of {last}, which contradict each other or the size {expected}"
            )
        return Books(self.array("<f4", (size * CODES,), what), size, part)


def write(file, arguments, words, counts, rows_of_input, output):
    """Write a model without labels.

    Args:
        file: open, in binary.
        arguments: as in `Contents`.
        words: list of bytes without zeros.
        counts: as many ints.
        rows_of_input: iterable of float32 arrays (rows, size), which are all rows together.
        output: float32 (words, size).
    """
    numbers = [arguments[name] for name in ARGUMENTS]
    file.write(HEADER.pack(MAGIC, VERSION, *numbers, arguments["t"]))
    file.write(SIZES.pack(len(words), len(words), 0, sum(counts), -1))
    for word, count in zip(words, counts, strict=True):
        file.write(word + b"\0" + ENTRY.pack(count, 0))
    size = arguments["dim"]
    file.write(b"\0" + struct.pack("<qq", len(words) + arguments["bucket"], size))
    for rows in rows_of_input:
        file.write(_bytes(rows))
    file.write(b"\0" + struct.pack("<qq", len(words), size))
    for begin in range(0, len(output), 1 << 14):
        file.write(_bytes(output[begin : begin + (1 << 14)]))


def _bytes(rows):
    return np.ascontiguousarray(rows, "<f4").tobytes()
