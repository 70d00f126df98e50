"""Arrays in NumPy's format, checked before their elements are read; and arrays with their words.

A `.npy` file of vectors has the words after the array, so that one renaming replaces both and they
always come from the same save. NumPy reads the array and ignores the rest.
"""

import math
import struct
import tokenize
import warnings
import zlib

import numpy as np

from fastkeras._files import replacing
from fastkeras.word2vec.vectors.eight_bits import EightBitRows, is_of_rows

_END = struct.Struct("<8sQI")  # end of the file: this mark, then length and checksum of the words
_MARK = b"FKWORDS1"
_AT_A_TIME, _ROWS = 1 << 20, 1 << 14  # bytes read and rows written together


def read_header(file, place):
    """Read the header of an array of NumPy; its elements follow.

    Args:
        file: open, in binary.
        place: what the messages begin with.

    Returns:
        `(shape, dtype, in Fortran's order, bytes of the elements)`.

    Raises:
        ValueError: this is not such a header, or the array is of Python objects.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"version {version} of the format is unknown")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers of Python 2
            shape, fortran_order, dtype = read(file)
    # NumPy evaluates the header as Python's source, so it may raise whatever that raises.
    except (
        ValueError, SyntaxError, tokenize.TokenError, KeyError, TypeError, EOFError, OverflowError,
        RecursionError, MemoryError, AttributeError, IndexError,
    ) as error:  # fmt: skip
        raise ValueError(f"{place} is not an array of NumPy: {error}") from None
    if any(isinstance(size, bool) or size < 0 for size in shape):
        raise ValueError(f"{place} has the shape {shape}, of which no number may be negative")
    if dtype.hasobject:
        raise ValueError(f"{place} has Python objects; it must have numbers")
    return shape, dtype, fortran_order, math.prod(shape) * dtype.itemsize


def read_array(file, size, place):
    """Read an array that ends after `size` bytes, header included.

    Raises:
        ValueError: it is not an array, or has another size. No more memory than `size` is taken.
    """
    start = file.tell()
    shape, dtype, fortran_order, length = read_header(file, place)
    left = size - (file.tell() - start)
    if left != length:
        raise ValueError(f"{place} has {left} bytes of elements, its shape {shape} needs {length}")
    array = np.empty(shape[::-1] if fortran_order else shape, dtype)
    view = memoryview(array.reshape(-1).view(np.uint8))
    while len(view):
        read = file.readinto(view[:_AT_A_TIME])
        if not read:
            raise ValueError(f"{place} ends {len(view)} bytes too early")
        view = view[read:]
    file.read(1)  # zipfile compares the checksum only at the end
    return array.T if fortran_order else array


def save_with_words(path, words, matrix):
    """Write a matrix, and after it a word for each of its rows."""
    matrix = matrix.rows if isinstance(matrix, EightBitRows) else matrix
    text = "".join(f"{word}\n" for word in words).encode()
    header = {
        "descr": np.lib.format.dtype_to_descr(matrix.dtype),
        "fortran_order": False,
        "shape": matrix.shape,
    }
    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for begin in range(0, len(matrix), _ROWS):  # `tofile` would not notice a full disk
            file.write(np.ascontiguousarray(matrix[begin : begin + _ROWS]).reshape(-1).view("u1"))
        file.write(text)
        file.write(_END.pack(_MARK, len(text), zlib.crc32(text)))


def load_with_words(path):
    """Read words, and map a matrix that must have a row for each of them.

    The words are those after the array; for arrays that others have written, those of a file
    beside it with the suffix `.words` and a word a line.

    Returns:
        `(words, matrix, place of the words)`.

    Raises:
        ValueError: words or matrix are damaged, or do not fit each other.
    """
    with open(path, "rb") as file:
        shape, dtype, fortran_order, length = read_header(file, path)
        start = file.tell()
        size = file.seek(0, 2)
        if size < start + length:
            raise ValueError(
                f"{path} is damaged: its array ends at byte {start + length}, the file at {size}"
            )
        eight_bits = len(shape) == 1 and is_of_rows(dtype)
        if not eight_bits and (len(shape) != 2 or dtype.kind != "f"):
            raise ValueError(
                f"{path} has an array of {dtype} and shape {shape}; vectors are floats of shape "
                "(words, size)"
            )
        words, place = _words_in(file, path, start + length, size)
        order = "F" if fortran_order else "C"
        if length:
            matrix = np.memmap(file, dtype, "r", start, shape, order)
        else:
            matrix = np.empty(shape, dtype, order)
    if len(words) != len(matrix):
        raise ValueError(f"{path} has shape {shape}, but {place} has {len(words)} words")
    return words, EightBitRows(matrix) if eight_bits else matrix, place


def _words_in(file, path, begin, size):
    if begin == size:
        place = path.with_suffix(".words")
        if not place.exists():
            raise ValueError(
                f"{path} has no words, as `Vectors.save` writes them after the array; then they "
                f"must be in {place}, a word a line"
            )
        text = place.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    else:
        place = path
        file.seek(max(begin, size - _END.size))
        end = file.read()
        mark, length, checksum = _END.unpack(end) if len(end) == _END.size else (b"", 0, 0)
        if mark != _MARK or begin + length + _END.size != size:
            raise ValueError(f"{path} is damaged: what follows its array are no words")
        file.seek(begin)
        text = file.read(length)
        if zlib.crc32(text) != checksum:
            raise ValueError(f"{path} is damaged: the checksum of its words is another")
    try:
        lines = text.decode().split("\n")
    except UnicodeDecodeError as error:
        number = text.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{place}: word {number} is not UTF-8: {error.reason}") from None
    if lines.pop():
        raise ValueError(f"{place}, line {len(lines) + 1}: it has no line feed at its end")
    return lines, place
