"""The ids of a corpus, with or without the compiled part, in memory or in a file."""

import tempfile
from pathlib import Path

import numpy as np

from fastkeras._files import replacing

END = -1  # after each sentence
IDS_AT_A_TIME = 1 << 20


def id_arrays(corpus, words, num_threads):
    """Yield int32 arrays whose concatenation is the corpus as ids."""
    if not corpus.is_text:
        yield from _of_token_lists(corpus, {word: i for i, word in enumerate(words)})
        return
    encoder = encoder_of(words)
    for block, _ in corpus.blocks():
        ids = encoder.encode(block, num_threads)
        if len(ids):
            yield ids


def encoder_of(words):
    """Return what has `encode(block, num_threads)`, the ids of a block of text."""
    try:
        return _native(words)
    except ImportError:
        return _Encoder(words)


class _Encoder:
    """`_core.WordEncoder` in Python, for machines without the compiled part."""

    def __init__(self, words):
        self.index = {word.encode("utf-8", "surrogatepass"): i for i, word in enumerate(words)}
        self.in_sentence = False

    def encode(self, block, num_threads):
        ids = []
        get = self.index.get
        lines = block.split(b"\n")
        for i, line in enumerate(lines):
            known = [id for id in map(get, line.split()) if id is not None]
            ids += known
            self.in_sentence |= bool(known)
            if self.in_sentence and i + 1 < len(lines):
                ids.append(END)
                self.in_sentence = False
        return np.array(ids, np.int32)


def _native(words):
    from fastkeras._core import WordEncoder

    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    ends = np.cumsum([len(word) for word in encoded], dtype=np.int64)
    return WordEncoder(b"".join(encoded), ends)


def _of_token_lists(corpus, index):
    ids = []
    for sentence in corpus.token_lists():
        known = [id for id in map(index.get, sentence) if id is not None]
        if known:
            ids += known
            ids.append(END)
        if len(ids) >= IDS_AT_A_TIME:
            yield np.array(ids, np.int32)
            ids = []
    if ids:
        yield np.array(ids, np.int32)


def mapped(arrays, folder):
    """Write the arrays to a file and return it as one memory-mapped, read-only array.

    Without a folder the file has no name, so that it vanishes with the array.
    """
    with (
        tempfile.TemporaryFile(prefix="fastkeras-", suffix=".int32")
        if folder is None
        else replacing(Path(folder) / "corpus.int32")
    ) as file:
        for array in arrays:
            file.write(array)  # `tofile` would not notice a full disk
        file.flush()
        return np.memmap(file, np.int32, "r") if file.tell() else np.empty(0, np.int32)
