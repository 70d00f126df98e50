"""Every snippet of the pages in docs/jobs runs unchanged, in a process of its own."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JOBS = ROOT / "docs" / "jobs"
BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")


mktestdocs = pytest.importorskip("mktestdocs", reason="mktestdocs is not installed")
SNIPPETS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in sorted(JOBS.glob("*.md"))
    for number, block in enumerate(mktestdocs.grab_code_blocks(page.read_text("utf-8")))
]


@pytest.mark.parametrize("block", SNIPPETS)
def test_a_snippet_runs_as_it_stands(block, tmp_path):
    backend = "jax" if '"KERAS_BACKEND"] = "jax"' in block else "tensorflow"
    if backend != BACKEND:
        pytest.skip(f"this snippet is for Keras on {backend}, and this is {BACKEND}")
    for name in ("keras_hub",):
        if f"import {name}" in block and not find_spec(name):
            pytest.skip(f"{name} is not installed")
    script = tmp_path / "snippet.py"
    script.write_text(block)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
