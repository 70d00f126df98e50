"""Lets pytest-benchmark measure the cases of `fastkeras bench`, with its progress shown."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest

from fastkeras.bench.limits import processors
from fastkeras.bench.run import Plugin

SHARE = 0.25  # of the time, that a run with fewer processors takes


def measured(chosen, seconds):
    """Measure the cases in about so many seconds.

    Returns:
        Dict of `rows`, and of what was `skipped` and what is `wrong`, for what reason.
    """
    printed = io.StringIO()
    with _progress(len(chosen)) as advance, _pytest_alone():
        plugin = Plugin(chosen, seconds, advance)
        arguments = [str(Path(__file__).with_name("run.py")), "-q", "--rootdir", os.curdir]
        arguments += ["-p", "no:cacheprovider", "-c", os.devnull, "-W", "ignore", "--tb=line"]
        arguments += ["-o", "python_files=run.py", "--benchmark-disable-gc"]
        with contextlib.redirect_stdout(printed):
            status = pytest.main([*arguments, "--import-mode=importlib"], plugins=[plugin])
    if status == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(printed.getvalue())
    return {"rows": plugin.rows, "skipped": plugin.skipped, "wrong": plugin.wrong}


def with_fewer_processors(found, given):
    """Add to what was found the same cases with fewer processors, each in a process of its own.

    Libraries ask for the number of processors when they start; so they are started anew.
    """
    everywhere = processors()
    if not hasattr(os, "sched_setaffinity"):
        reason = "this system cannot keep a process to a part of the processors"
        found["skipped"].append(("threads", "fewer processors", reason))
        return
    providers = list(dict.fromkeys(row["provider"] for row in found["rows"]))
    counts = [n for n in sorted({1, everywhere // 4, everywhere // 2}) if 0 < n < everywhere]
    if not providers:
        return
    with _progress(len(counts)) as advance:
        for count in counts:
            advance(0, f"with {count} of {everywhere} processors")
            rows, reason = _on(count, _words_of(given, providers))
            found["rows"] += rows
            if reason:
                found["skipped"].append(("threads", f"{count} processors", reason))
            advance(1)


def _on(count, words):
    """The rows of this command in a process that has so many processors, and why there are none."""
    all_of_them = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "found.json")
        os.sched_setaffinity(0, sorted(all_of_them)[:count])  # the process inherits it
        try:
            command = [sys.executable, "-m", "fastkeras", "bench", *words, "--json", str(path)]
            ran = subprocess.run(command, capture_output=True, text=True)
        finally:
            os.sched_setaffinity(0, all_of_them)
        if path.exists():
            return json.loads(path.read_text("utf-8"))["rows"], None
        return [], (ran.stderr.strip() or "it failed").splitlines()[-1]


def _words_of(given, providers):
    """The command line that measures the same, with these providers, in less time."""
    own = ("domain", "seconds", "peers", "only", "json", "html", "compare")
    words = [given.domain, "--seconds", str(max(SHARE * given.seconds, 0.1))]
    for name, value in vars(given).items():
        if name not in own and value not in (None, False):
            words.append(f"--{name}")
            if value is not True:
                words.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return words + [word for provider in providers for word in ("--only", provider)]


@contextlib.contextmanager
def _pytest_alone():
    """Run pytest as if nothing were set for it, and with no plugin but pytest-benchmark."""
    changed = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_benchmark.plugin"}
    with patch.dict(os.environ, changed):
        os.environ.pop("PYTEST_ADDOPTS", None)
        yield


@contextlib.contextmanager
def _progress(total):
    """A progress bar on a terminal; yields the function (steps, words) that moves it."""
    if not sys.stderr.isatty():
        yield lambda steps, words=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=total)
        yield lambda steps, words=None: bar.update(task, advance=steps, description=words)
