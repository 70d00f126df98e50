"""Text files in blocks: plain or compressed, checked to be UTF-8, cut between words."""

import bz2
import gzip
import lzma
import os
import zlib
from stat import S_ISREG

from fastkeras.word2vec.arguments import file_path

WHITESPACE = b" \t\n\r\v\f"
LONGEST_WORD = 64 << 20  # bytes; a file with a longer one is not text
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError)  # what reading a compressed file raises


def stamp(path):
    """Return what shows whether a file has changed: its size and the time of its last change."""
    status = os.stat(path)
    if not S_ISREG(status.st_mode):
        raise ValueError(
            f"{path} is no regular file, and training reads its corpus several times: "
            "write it to a file first, which may be compressed"
        )
    return status.st_size, status.st_mtime_ns


def check_unchanged(path, then):
    """Raise if the file has changed since `then = stamp(path)` was taken."""
    try:
        now = stamp(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is gone; it was there when the corpus was made") from None
    if now != then:
        raise ValueError(
            f"{path} has changed since the corpus was made ({then[0]} bytes then, {now[0]} now); "
            "ids and counts would not fit each other"
        )


def blocks_of_file(path, size, errors):
    """Yield `(block, done)`: bytes of valid UTF-8, and how far the file on disk has been read.

    A block has about `size` bytes and ends after whitespace; the last one ends with a line feed.
    """
    with open(path, "rb") as raw, uncompressed(raw) as file:
        position, rest = 0, []
        while True:
            try:
                part = file.read(size)
            except DAMAGED as error:
                raise ValueError(f"{path} is damaged after byte {raw.tell()}: {error}") from error
            ended = not part
            if ended:
                part = b"\n"  # ends the last word
            cut = 1 + max(part.rfind(space) for space in WHITESPACE)
            if cut:
                block = b"".join([*rest, part[:cut]])
                text = _utf8(block, errors, path, position)
                yield text.removeprefix(BYTE_ORDER_MARK) if position == 0 else text, raw.tell()
                position, rest = position + len(block), []
            if ended:
                return
            if cut < len(part):
                rest.append(part[cut:])
            if sum(map(len, rest)) > LONGEST_WORD:
                raise ValueError(
                    f"{path} has no whitespace in {LONGEST_WORD >> 20} MiB after byte {position}: "
                    "it must be text with spaces between words"
                )


def lines_of(path):
    """Yield (number, line) of a UTF-8 text file, without line ends or a byte-order mark.

    Raises:
        ValueError: a line is not UTF-8.
    """
    with open(file_path("path", path), "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            try:
                yield number, line.removesuffix(b"\n").removesuffix(b"\r").decode()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: {line[:60]!r} is not UTF-8: {error.reason}"
                ) from None


def _utf8(block, errors, path, position):
    try:
        block.decode()
        return block
    except UnicodeDecodeError as error:
        if errors == "replace":
            return block.decode("utf-8", "replace").encode()
        raise ValueError(
            f"{path} is not UTF-8 at byte {position + error.start} "
            f"(0x{block[error.start]:02x}: {error.reason}); errors='replace' reads it all the same"
        ) from None


class _Zstandard:
    """Reads frame after frame; the package's own stream reader accepts a truncated frame."""

    def __init__(self, raw):
        try:
            from zstandard import ZstdDecompressor, ZstdError
        except ImportError:
            raise ImportError(
                f"{raw.name} is compressed with Zstandard: pip install zstandard"
            ) from None
        self.raw, self.new, self.error = raw, ZstdDecompressor().decompressobj, ZstdError
        self.frame, self.unused, self.text = None, b"", b""

    def read(self, size):
        parts, length = [self.text], len(self.text)
        while length < size:
            data = self.unused or self.raw.read(1 << 16)
            if not data:
                if self.frame is not None:
                    raise EOFError("it ends within a frame")
                break
            self.frame = self.frame or self.new()
            try:
                parts.append(self.frame.decompress(data))
            except self.error as error:
                raise OSError(str(error)) from error
            length += len(parts[-1])
            self.unused = self.frame.unused_data
            if self.frame.eof:
                self.frame = None
        text = b"".join(parts)
        self.text = text[size:]
        return text[:size]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


_COMPRESSED = {  # first bytes: how to open
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _Zstandard,
}


def uncompressed(raw):
    """Return the open file, or a decompressing reader of it, as its first bytes tell."""
    start = raw.read(10)
    raw.seek(0)
    for magic, opened in _COMPRESSED.items():
        if start.startswith(magic) and (magic != b"BZh" or start[4:] == b"1AY&SY"):
            return opened(raw)
    return raw
