"""Columns of tables as corpora: Parquet and Arrow files, tables of pyarrow, data sets, data frames.

Batch after batch is read, so that a table may be larger than the memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkeras.word2vec.corpus.text_files import check_unchanged, stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import Any

ROWS = 1000  # of a batch of a data set


class Column:
    """The values of a column, strings or lists of words, again each time; nulls are left out.

    Args:
        source: a table, a data set or a data frame, as in `Corpus`.
        name: of the column.
        files: to be read instead.

    Raises:
        ImportError: files need pyarrow, which is not installed.
        TypeError: `source` has no columns.
        ValueError: there is no such column; or, when read, a file has changed meanwhile.
    """

    def __init__(self, source: Any, name: str, files: list[Path] | None = None) -> None:
        if not isinstance(name, str):
            raise TypeError(f"column={name!r} must be the name of a column")
        self.source, self.name, self.files = source, name, files
        self.stamps = [stamp(path) for path in files or ()]
        next(iter(self), None)

    def __iter__(self) -> Iterator[Any]:
        for values in self._batches():
            for value in values:
                if value is not None:
                    yield value

    def _batches(self) -> Iterator[Iterable[Any]]:
        source, name = self.source, self.name
        if self.files is not None:
            for path, then in zip(self.files, self.stamps, strict=True):
                check_unchanged(path, then)
                for batch in _batches_of_file(path, name):
                    yield batch.column(name).to_pylist()
        elif hasattr(source, "to_batches"):  # of pyarrow: Table, Dataset
            self._expect(source.schema.names)
            table = source.select([name]) if hasattr(source, "select") else source
            batches = table.to_batches() if table is not source else source.to_batches([name])
            for batch in batches:
                yield batch.column(name).to_pylist()
        elif hasattr(source, "iter") and hasattr(source, "column_names"):  # of Hugging Face
            if source.column_names is not None:  # of a stream it may not be known
                self._expect(source.column_names)
            for rows in source.iter(batch_size=ROWS):
                self._expect(rows)
                yield rows[name]
        elif hasattr(source, "toLocalIterator"):  # of Spark
            self._expect(source.columns)
            quoted = name.replace("`", "``")  # a dot would mean a field of a column
            for row in source.select(f"`{quoted}`").toLocalIterator():
                yield [row[0]]
        elif hasattr(source, "columns") and hasattr(source, "__getitem__"):  # pandas, polars
            self._expect(source.columns)
            values = source[name]
            # The nulls of pandas are NaN or NA, not None.
            yield values.dropna() if hasattr(values, "dropna") else values
        else:
            raise TypeError(
                f"corpus is a {type(source).__name__}, which has no columns: pass Parquet or Arrow "
                "files, a table of pyarrow, a data set of Hugging Face or a data frame with column="
            )

    def _expect(self, names: Iterable[str], place: str = "corpus") -> None:
        _expect(self.name, names, place)


def _expect(name, names, place):
    if name not in names:
        known = ", ".join(map(repr, names))
        raise ValueError(f"column={name!r} is none of the columns of {place}: {known}")


def table_format(path: Path) -> str | None:
    """Return "Parquet" or "Arrow" if a file begins like one of a table, else None."""
    with open(path, "rb") as file:
        start = file.read(6)
    if start[:4] == b"PAR1":
        return "Parquet"
    return "Arrow" if start == b"ARROW1" or start[:4] == b"\xff\xff\xff\xff" else None


def _batches_of_file(path, name):
    form = table_format(path)
    if form is None:
        raise ValueError(f"{path} is no Parquet or Arrow file, so that it has no columns")
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError:
        raise ImportError(f"{path} is a {form} file: pip install pyarrow") from None
    try:
        if form == "Parquet":
            with parquet.ParquetFile(path) as file:
                _expect(name, file.schema_arrow.names, path)
                yield from file.iter_batches(columns=[name])
            return
        with pyarrow.memory_map(str(path)) as raw:
            if raw.read(6) == b"ARROW1":
                raw.seek(0)
                reader = ipc.open_file(raw)
                _expect(name, reader.schema.names, path)
                for number in range(reader.num_record_batches):
                    yield reader.get_batch(number)
                return
            raw.seek(0)
            reader = ipc.open_stream(raw)
            _expect(name, reader.schema.names, path)
            yield from reader
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is a damaged {form} file: {error}") from error
