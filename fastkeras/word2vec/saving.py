"""Files that are there in full or not at all."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path, mode="wb", **options):
    """Open a file beside `path` that takes its place when the block has ended without an error.

    Whatever happens before, even the end of the process, leaves the old file as it was.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic(folder / "numbers.txt") as file:
        ...     _ = file.write(b"1 2 3")
        >>> [path.name for path in folder.iterdir()], (folder / "numbers.txt").read_text()
        (['numbers.txt'], '1 2 3')
    """
    path = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        os.fchmod(descriptor, _mode_of_new_files())
        with open(descriptor, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _mode_of_new_files():
    """`mkstemp` lets only the owner read; a file that `open` makes has the process's mask."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
