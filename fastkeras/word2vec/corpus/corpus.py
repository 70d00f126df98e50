"""A corpus that can be read several times, whatever its source, and its words as ids.

A sentence is a line of a file, or an item of an iterable. In files and in strings alike, words are
separated by ASCII whitespace (space, tab, vertical tab, form feed, carriage return). So lines may
end with CR LF, and a non-breaking or full-width space is part of a word.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastkeras._files import copy_of_stream
from fastkeras.word2vec.arguments import choice, file_path, integer, strings
from fastkeras.word2vec.corpus.columns import Column, table_format
from fastkeras.word2vec.corpus.encoding import id_arrays, mapped
from fastkeras.word2vec.corpus.text_files import (
    blocks_of_file,
    check_unchanged,
    stamp,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from fastkeras.typing import FilePath
    from fastkeras.word2vec.vocabulary import Vocabulary

BLOCK = 4 << 20  # bytes of text read, counted and encoded at a time

_ONE_SHOT = (
    "corpus is a {kind}, which can be read only once, but training reads it several times: pass a "
    "path, a list, or an object whose __iter__ begins anew each time"
)


class Corpus:
    """Sentences that can be read several times: iterating yields lists of words.

    Args:
        source: one of

            - the path of a UTF-8 text file with one sentence a line, plain or compressed with gzip,
              bzip2, xz or Zstandard (recognized by its first bytes, not its name), or a pattern
              like `"news/*.txt.gz"`, whose files are read in the order of their names;
            - a list of paths and patterns;
            - anything that can be iterated over several times and yields strings (one sentence
              each, or several separated by line feeds) or lists of words, such as a column of a
              data set;
            - with `column`: Parquet and Arrow files (paths and patterns, by pyarrow), a table or
              data set of pyarrow, a data set of Hugging Face, also a stream, or a data frame of
              pandas, polars or Spark;
            - an open file, such as `sys.stdin`, which is copied to a temporary file first, since
              training reads its corpus several times.

            Strings in a list are paths if each names a file; if only some do, that is an error.
        errors: `"strict"` raises where a text is not UTF-8; `"replace"` puts U+FFFD there
            (`?` for half a surrogate pair in a string).
        column: the name of the column with the sentences; see `source`.

    Attributes:
        files: list of `pathlib.Path`, or None if the corpus does not come from files.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: `source` can be read only once, or is none of the above.
        ValueError: `errors` is something else, a file is a pipe, or there is no such column.
            Reading raises it if a text is not UTF-8 (with the file and the position in uncompressed
            bytes), if a compressed file is damaged, and if a file has changed since the corpus was
            made.

    Lines without words, and empty lists, are left out, and so are byte-order marks. For a
    vocabulary and for ids a line may have any length; iterating makes a list of each line.

    Example:
        >>> from fastkeras.word2vec.corpus import Corpus
        >>> list(Corpus(["the cat sat", "", "on the mat"]))
        [['the', 'cat', 'sat'], ['on', 'the', 'mat']]
    """

    def __init__(self, source: Any, errors: str = "strict", column: str | None = None) -> None:
        choice("errors", errors, ("strict", "replace"))
        if hasattr(source, "read"):
            self._copy = copy_of_stream(source)  # which it removes with itself
            source = Path(self._copy.name)
        self.files: list[Path] | None = _files(source)
        self.is_text: bool = True
        if column is not None:
            source, self.files = Column(source, column, self.files), None
        self.source: Any = source
        self.errors = errors
        if self.files is not None:
            self._stamps = [stamp(file) for file in self.files]
            for file in self.files:
                if form := table_format(file):
                    raise ValueError(
                        f"{file} is a {form} file: name its column of sentences, "
                        "Corpus(path, column='text')"
                    )
            return
        if isinstance(source, bytes | bytearray | dict) or not isinstance(source, Iterable):
            raise TypeError(
                f"corpus is a {type(source).__name__}; it must be a path, a list of paths, or an "
                "iterable of strings or of lists of words"
            )
        if iter(source) is source:
            raise TypeError(_ONE_SHOT.format(kind=type(source).__name__))
        first: str | list[str] = next(iter(source), [])
        _check_sentence(first, 0)
        self.is_text = isinstance(first, str)

    def __iter__(self) -> Iterator[Any]:
        if not self.is_text:
            yield from filter(None, self.token_lists())
            return
        sentence = []
        for block, _ in self.blocks():
            lines = block.split(b"\n")
            for i, line in enumerate(lines):
                sentence += [word.decode() for word in line.split()]
                if sentence and i + 1 < len(lines):  # the last line goes on in the next block
                    yield sentence
                    sentence = []

    @property
    def size(self) -> int | None:
        """The total that the progress of `blocks` and `token_lists` reaches; None if unknown."""
        if self.files is not None:
            return sum(size for size, _ in self._stamps)
        return len(self.source) if hasattr(self.source, "__len__") else None

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[bytes, int]]:
        """Yield `(block, done)`: valid UTF-8 that ends after whitespace, and the progress so far.

        Only for `is_text`. The progress is in bytes of the files as they are on disk, or in items
        of the iterable. Each file, and each item, ends with a line feed, added if it has none.
        """
        if self.files is None:
            yield from self._blocks_of_strings(size)
            return
        before = 0
        for file, then in zip(self.files, self._stamps, strict=True):
            check_unchanged(file, then)
            for block, done in blocks_of_file(file, size, self.errors):
                yield block, before + done
            check_unchanged(file, then)
            before += then[0]

    def _blocks_of_strings(self, size):
        parts, length, done = [], 0, 0
        for done, item in enumerate(self.source, 1):
            if not isinstance(item, str):
                raise TypeError(f"corpus[{done - 1}] is a {type(item).__name__}, after strings")
            try:
                parts.append(item.encode("utf-8", self.errors))
            except UnicodeEncodeError as error:
                raise ValueError(f"corpus[{done - 1}] is not Unicode: {error}") from None
            length += len(parts[-1]) + 1
            if length >= size:
                yield b"\n".join([*parts, b""]), done
                parts, length = [], 0
        if parts:
            yield b"\n".join([*parts, b""]), done

    def token_lists(self) -> Iterator[list[str]]:
        """Yield each list of words, empty ones too; only if not `is_text`.

        Raises:
            TypeError: one is a string, or holds something else than strings.
        """
        for i, sentence in enumerate(self.source):
            _check_sentence(sentence, i)
            if isinstance(sentence, str):
                raise TypeError(f"corpus[{i}] is a string, after lists of words")
            yield list(sentence)

    def documents(self) -> Iterator[list[str]]:
        """Yield the words of each line of the files, or of each item, also where there are none."""
        if not self.is_text:
            yield from self.token_lists()
        elif self.files is None:
            for item, _ in self._blocks_of_strings(1):
                yield [word.decode() for word in item.split()]
        else:
            for file, then in zip(self.files, self._stamps, strict=True):
                check_unchanged(file, then)
                yield from _lines(blocks_of_file(file, BLOCK, self.errors))
                check_unchanged(file, then)

    def document_blocks(self, mark: bytes) -> Iterator[bytes]:
        """Yield `documents` as text: each is a line, of which `mark` is the last word.

        Only for `is_text`. A block ends anywhere between two words.
        """
        end = b" " + mark + b"\n"
        if self.files is None:
            parts, length = [], 0
            for item, _ in self._blocks_of_strings(1):
                parts += [item.replace(b"\n", b" "), end]
                length += len(item)
                if length >= BLOCK:
                    yield b"".join(parts)
                    parts, length = [], 0
            yield b"".join(parts)
            return
        for file, then in zip(self.files, self._stamps, strict=True):
            check_unchanged(file, then)
            before, line_feed = b"\n", b""
            for block, _ in blocks_of_file(file, BLOCK, self.errors):
                text = line_feed + block
                line_feed = b"\n" if text.endswith(b"\n") else b""
                text = text.removesuffix(b"\n")
                before = text[-1:] or before
                yield text.replace(b"\n", end)
            if before != b"\n":  # else nothing stands before the line feed that was added
                yield end
            check_unchanged(file, then)


def _lines(blocks):
    line, before = [], None
    for block, _ in blocks:
        *ends, rest = block.split(b"\n")
        for end in ends:
            if before is not None:
                yield [word.decode() for word in b"".join(before).split()]
            before, line = [*line, end], []
        line.append(rest)
    if before is not None and any(before):  # nothing stands before the line feed that was added
        yield [word.decode() for word in b"".join(before).split()]


def encode(
    corpus: Any, vocabulary: Vocabulary, folder: FilePath | None = None, num_threads: int = 0
) -> NDArray[np.int32]:
    """Return the ids of all sentences one after the other, with −1 after each sentence.

    Words that the vocabulary lacks are left out, and so are sentences without any other word.

    Args:
        corpus: a `Corpus`, or anything that one can be made of.
        vocabulary: a `Vocabulary`, or anything with `words` (list of strings).
        folder: for a corpus of files: where to write its ids, as `corpus.int32`, which stays. None
            takes a file in the temporary folder (`TMPDIR`) that is removed together with the
            array. The file needs 4 bytes a word.
        num_threads: of the compiled part; 0 takes all processors. The result is the same.

    Returns:
        int32 array of one dimension; for a corpus of files a `numpy.memmap`, unless it is empty.

    Raises:
        ValueError, OSError: as reading the `Corpus` does.

    Example:
        >>> from fastkeras.word2vec.corpus import encode
        >>> from fastkeras.word2vec.vocabulary import Vocabulary
        >>> encode(["the cat sat", "", "a dog", "the cat"], Vocabulary(["the", "cat"], [2, 2]))
        array([ 0,  1, -1,  0,  1, -1], dtype=int32)
    """
    integer("num_threads", num_threads)
    if folder is not None:
        file_path("folder", folder)
    words = strings("vocabulary.words", getattr(vocabulary, "words", None))
    corpus = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
    arrays = id_arrays(corpus, words, num_threads)
    if corpus.files is not None or getattr(corpus.source, "files", None):
        return mapped(arrays, folder)
    arrays = list(arrays)
    return np.concatenate(arrays) if arrays else np.empty(0, np.int32)


def _check_sentence(sentence, i):
    if isinstance(sentence, str):
        return
    if isinstance(sentence, dict):
        raise TypeError(f"corpus[{i}] is a dict: pass one column of the data set, dataset['text']")
    if not isinstance(sentence, list | tuple | np.ndarray):
        raise TypeError(
            f"corpus[{i}] is a {type(sentence).__name__}; it must be a string or a list of words"
        )
    for word in sentence:
        if not isinstance(word, str):
            raise TypeError(f"corpus[{i}] has {word!r}; its words must be strings")


def _files(source):
    """Return the files that `source` names, or None if it names none."""
    if isinstance(source, str | os.PathLike):
        if os.path.isdir(source):
            raise IsADirectoryError(
                f"corpus={str(source)!r} is a folder; its files are {os.path.join(source, '*')!r}"
            )
        files = _matches(source)
        if not files:
            raise FileNotFoundError(
                f"corpus={str(source)[:200]!r}: there is no such file; a text itself must be in a "
                "list of sentences"
            )
        return files
    if not isinstance(source, list | tuple) or not source:
        return None
    # Of many strings look up only some: if they are sentences, each would cost a disk access.
    some = source[:100]
    if not any(isinstance(item, os.PathLike) for item in some):
        is_file = [bool(_matches(item)) for item in some]
        if not all(is_file):
            _check_no_file(some, is_file)
            return None
    files = []
    for item in source:
        of_item = _matches(item)
        if not of_item:
            raise FileNotFoundError(f"corpus is a list of files, but there is no file {item!r}")
        files += of_item
    return files


def _check_no_file(items, is_file):
    for item, is_one in zip(items, is_file, strict=True):
        if is_one and os.path.isfile(item):
            other = items[is_file.index(False)]
            raise ValueError(
                f"corpus has {item!r}, which is a file, and {str(other)[:80]!r}, which is none; "
                "pass files as pathlib.Path, sentences as lists of words"
            )


def _matches(name):
    """Return the files that a path or a pattern stands for; none for anything else."""
    if not isinstance(name, str | os.PathLike) or len(os.fspath(name)) > 4096 or "\0" in str(name):
        return []
    if os.path.exists(name):
        return [] if os.path.isdir(name) else [Path(name)]
    if glob.has_magic(os.fspath(name)):
        found = sorted(glob.glob(os.fspath(name), recursive=True))
        return [Path(file) for file in found if os.path.isfile(file)]
    return []
