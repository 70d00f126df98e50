"""Files are written completely or not at all, whatever happens to the disk or the process."""

import ast
import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import fastkeras
from fastkeras import _files
from fastkeras._files import check_writable, replacing
from file_faults import FORMATS

ROOT = Path(fastkeras.__file__).parent


@pytest.mark.parametrize("name", FORMATS)
def test_old_or_new_file_after_any_fault(tmp_path, name):
    pytest.importorskip({".png": "PIL", ".h5": "h5py"}.get(Path(name).suffix, "numpy"))
    command = [sys.executable, Path(__file__).with_name("file_faults.py"), name, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_writers_of_one_name_do_not_mix(tmp_path):
    path = tmp_path / "file"
    errors = []

    def write(letter):
        try:
            for _ in range(50):
                with replacing(path) as file:
                    for _ in range(10):
                        file.write(letter * 1000)
                        file.flush()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert len(set(path.read_bytes())) == 1
            assert path.stat().st_size == 10_000
    assert not errors
    assert os.listdir(tmp_path) == ["file"]


def test_an_unfinished_file_of_a_living_writer_stays(tmp_path):
    with replacing(tmp_path / "file") as file:
        file.write(b"first")
        with replacing(tmp_path / "file") as other:
            other.write(b"second")
        assert (tmp_path / "file").read_bytes() == b"second"
    assert (tmp_path / "file").read_bytes() == b"first"


def test_what_was_abandoned_under_another_name_stays(tmp_path):
    names = [".other.0123456789ab.partial", ".file.txt", ".file.partial", ".file.ab.partial"]
    for name in names:
        (tmp_path / name).touch()
    with replacing(tmp_path / "file"):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "file"])


def test_permissions_are_those_of_open(tmp_path):
    usual = tmp_path / "usual"
    usual.touch()
    with replacing(tmp_path / "new"):
        pass
    assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == stat.S_IMODE(os.stat(usual).st_mode)
    usual.chmod(0o640)
    with replacing(usual):
        pass
    assert stat.S_IMODE(os.stat(usual).st_mode) == 0o640


def test_a_write_protected_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda *_: False)  # even if root runs the tests
    with pytest.raises(PermissionError, match="file"), replacing(path):
        pass
    with pytest.raises(PermissionError, match="output: it must not be written to"):
        check_writable(path, "output")
    assert path.read_text() == "old"


def test_links_stay_links_and_pipes_stay_pipes(tmp_path):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to("folder/file")
    with replacing(link, "w") as file:
        file.write("text")
    assert link.is_symlink()
    assert (tmp_path / "folder/file").read_text() == "text"
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    with replacing(tmp_path / "pipe", "w") as file:
        file.write("through")
    reader.join()
    assert read == ["through"]
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_long_names(tmp_path):
    path = tmp_path / ("世" * 85)  # 255 bytes, the longest possible name
    with replacing(path, "w") as file:
        file.write("text")
    assert path.read_text() == "text"


@pytest.mark.parametrize(
    ("path", "error"),
    [("no/such", FileNotFoundError), ("", IsADirectoryError), ("file/in", NotADirectoryError)],
)
def test_places_that_cannot_be_written_to(tmp_path, path, error):
    (tmp_path / "file").touch()
    with pytest.raises(error, match=str(tmp_path)), replacing(tmp_path / path):
        pass
    with pytest.raises(error, match=f"output: .*{tmp_path}"):
        check_writable(tmp_path / path, "output")
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_found_beforehand(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_files.os, "write", full)
    with pytest.raises(OSError, match="output: the disk is full"):
        check_writable(tmp_path / "file", "output")
    assert os.listdir(tmp_path) == []


def test_nothing_else_in_the_package_writes_files():
    found = []
    for path in ROOT.rglob("*.py"):
        if path.name == "_files.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and _writes(node):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


def _writes(call):
    """Whether a call opens a file for writing, or writes a file given by its name."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in ("write_text", "write_bytes", "rename", "replace", "mkstemp", "NamedTemporaryFile"):
        of_os = isinstance(function, ast.Attribute) and getattr(function.value, "id", "") == "os"
        return of_os or name not in ("rename", "replace")  # str.replace and the like write no files
    if name in ("open", "fdopen"):
        modes = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode")]
        texts = [mode.value for mode in modes if isinstance(mode, ast.Constant)]
        return any(set("wax+") & set(text) for text in texts if isinstance(text, str))
    if name in ("save", "savez", "savez_compressed", "savetxt", "tofile"):
        of_numpy = isinstance(function, ast.Attribute) and getattr(function.value, "id", "") == "np"
        to = call.args[0] if call.args else None
        return of_numpy and getattr(to, "id", "") != "file"
    return False
