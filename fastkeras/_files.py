"""Writes files completely or not at all, and checks beforehand whether they can be written.

A file is written under another name in the same folder, forced onto the disk, and only then
renamed. Whoever reads it, even after a crash, a kill or a full disk, finds either the old file or
the new one.
"""

import contextlib
import errno
import os
import re
import stat
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks, so files of killed writers stay there
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".partial"
_KEPT = 50  # letters of the name used for the temporary file, so that its name is not too long


@contextlib.contextmanager
def replacing(path, mode="wb", **options):
    """Open a file that takes the place of `path` when the block ends without an error.

    An error leaves the old file as it was and removes the unfinished one. A killed writer cannot do
    so; its unfinished file is removed by the next writer of the same name. Any number of threads
    and processes may write the same name at once: the file is that of the last to finish.

    A symbolic link stays one, and the file it points to is replaced. If the path is not a regular
    file but a pipe or `/dev/stdout`, for instance, it is written to directly.

    Args:
        path: of the file; its folder must exist.
        mode: `"wb"`, or `"w"` for text.
        **options: of `open`, such as `encoding`.

    Yields:
        The open file, under its temporary name. It can be read and sought in.

    Raises:
        OSError: the file cannot be written: no such folder, no permission, the disk is full.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "numbers.txt", "w", encoding="ascii") as file:
        ...     _ = file.write("1 2 3")
        >>> [path.name for path in folder.iterdir()], (folder / "numbers.txt").read_text()
        (['numbers.txt'], '1 2 3')
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"mode={mode!r} must be 'wb' or 'w'")
    if not isinstance(path, str | os.PathLike):  # an int would be a file that is open already
        raise TypeError(f"path={path!r} must be a path")
    before = _status(path)
    if before is not None and not stat.S_ISREG(before.st_mode):
        with open(path, mode, **options) as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    _remove_abandoned(target)
    descriptor, name = _create(target)
    try:
        with open(descriptor, mode.replace("w", "w+"), **options) as file:
            if before is not None:
                _take_over(name, before)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # while the lock is held, no other writer removes the file
                os.replace(name, target)
        if fcntl is None:  # Windows cannot rename an open file
            os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    _sync_folder(target.parent)


def check_writable(path, argument="path"):
    """Raise OSError if a file of this name cannot be written; nothing is left behind.

    Call it before long work whose result will go there. It writes a byte to a new file in the same
    folder and removes it again, so it also notices a full disk and a read-only file system.

    Args:
        path: of the file to be written later.
        argument: its name in the message.

    Example:
        >>> check_writable("no/such/folder/vectors.bin", "output")
        Traceback (most recent call last):
            ...
        FileNotFoundError: [Errno 2] output: there is no such folder: 'no/such/folder/vectors.bin'
    """
    name = None
    try:
        before = _status(path)
        if before is not None and not stat.S_ISREG(before.st_mode):
            return  # a pipe or a device
        target = Path(os.path.realpath(path))
        descriptor, name = _create(target)
        try:
            os.write(descriptor, b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = {
            errno.ENOENT: "there is no such folder",
            errno.EISDIR: "it is a folder",
            errno.ENOTDIR: "its folder is a file",
            errno.EACCES: "it must not be written to",
            errno.EPERM: "it must not be written to",
            errno.EROFS: "it is on a disk that is mounted read-only",
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the quota of disk space is used up",
        }.get(error.errno, error.strerror)
        raise OSError(error.errno, f"{argument}: {reason}", str(path)) from None
    finally:
        if name is not None:
            with contextlib.suppress(OSError):
                os.unlink(name)


def copy_of_stream(stream):
    """Return a temporary file with what is left of a stream; it vanishes when it is closed."""
    copy = tempfile.NamedTemporaryFile(prefix="fastkeras-", suffix=".txt")  # noqa: SIM115
    stream = getattr(stream, "buffer", stream)  # the bytes of a text file
    while part := stream.read(1 << 20):
        copy.write(part.encode() if isinstance(part, str) else part)
    copy.flush()
    return copy


@contextlib.contextmanager
def rereadable(path):
    """Yield a path that can be read from its start as often as need be: of a pipe that of a copy.

    The copy is a temporary file, removed afterwards; who has mapped it keeps it. A `ValueError`
    names the pipe, not the copy.

    Example:
        >>> with rereadable(__file__) as path:
        ...     path == __file__
        True
    """
    if stat.S_ISREG(os.stat(path).st_mode):
        yield path
        return
    with open(path, "rb") as stream, copy_of_stream(stream) as copy:
        try:
            yield copy.name
        except ValueError as error:
            raise ValueError(str(error).replace(copy.name, str(path))) from error


def _status(path):
    """Return the status of the path, None if nothing is there; raise if it cannot be replaced."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return status


def _take_over(name, before):
    """Give the new file the permissions, and where allowed the owner, of the one it replaces."""
    os.chmod(name, stat.S_IMODE(before.st_mode))
    if os.name == "posix" and os.stat(name).st_uid != before.st_uid:
        with contextlib.suppress(OSError):
            os.chown(name, before.st_uid, before.st_gid)


def _create(target):
    """Make a new file in the target's folder and lock it: `(descriptor, name)`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        name = target.with_name(f".{target.name[:_KEPT]}.{os.urandom(6).hex()}{SUFFIX}")
        try:
            descriptor = os.open(name, flags, 0o666)  # minus the umask of the process
        except FileExistsError:
            continue
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(target)) from None
        _lock(descriptor, wait=True)
        # Before the lock was taken, another writer may have removed the file as abandoned.
        if fcntl is None or os.fstat(descriptor).st_nlink:
            return descriptor, name
        os.close(descriptor)


def _lock(descriptor, wait=False):
    """Lock a file until it is closed or its process ends; return whether that was possible."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except (AttributeError, OSError):  # there are no locks here, or another process holds this one
        return False


def _remove_abandoned(target):
    """Remove the files that killed writers of this name have left."""
    pattern = re.compile(rf"\.{re.escape(target.name[:_KEPT])}\.[0-9a-f]{{12}}{re.escape(SUFFIX)}")
    with contextlib.suppress(OSError):  # a folder may be writable and yet not be listed
        for entry in os.scandir(target.parent):
            if not pattern.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):  # another writer may remove it at the same time
                descriptor = os.open(entry.path, os.O_RDWR)
                try:
                    if _lock(descriptor):
                        os.unlink(entry.path)
                finally:
                    os.close(descriptor)


def _sync_folder(folder):
    """Force a folder's entries onto the disk, where the system can."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder may be written to and yet not be read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have no such call
            raise
    finally:
        os.close(descriptor)
