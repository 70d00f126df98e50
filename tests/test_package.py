"""The package as a user gets it: light to import, and working where nothing could be compiled."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import tensorflow as tf

import fastkeras
from fastkeras import _core, _tf_library
from fastkeras.cli import main

ROOT = Path(__file__).parents[1]
PACKAGE = Path(fastkeras.__file__).parent


def run(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_import_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import fastkeras; "
        "print(time.perf_counter() - start, *sys.modules)"
    )
    seconds, *modules = run("-c", code, cwd=PACKAGE.parent).stdout.split()
    assert float(seconds) < 0.1
    assert "fastkeras" in modules
    assert not {"tensorflow", "keras", "numba", "numpy"} & set(modules)


def test_public_names_load():
    for name in fastkeras.__all__:
        assert getattr(fastkeras, name) is not None
    with pytest.raises(AttributeError, match="'fastkeras' has no attribute 'parser'"):
        _ = fastkeras.parser


def test_version_has_one_source():
    assert version("fastkeras") == fastkeras.__version__


def compiled_parts():
    version = _tf_library.VERSION.replace(".", "_")
    libraries = ("ops", f"variable_ops_{version}", f"xla_{version}", f"variable_xla_{version}")
    return Path(_core.__file__), *(PACKAGE / f"libfastkeras_tf_{name}.so" for name in libraries)


def test_compiled_parts_are_in_the_package_and_small():
    for part in compiled_parts():
        assert part.parent == PACKAGE
        assert part.stat().st_size < 5e6  # TensorFlow itself, vendored, would be far over


@pytest.fixture
def package_copy(tmp_path):
    """The package without what was compiled."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "fastkeras", ignore=ignored)
    return tmp_path


REPORT = """
import sys  # an editable installation would lend the copy what it lacks
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder)]
import numpy as np, fastkeras, fastkeras._engines
print(fastkeras.__file__)
print(fastkeras._engines.engine_for("crf", np.zeros(1)).__name__)
score = fastkeras.crf.sequence_score(np.ones((1, 3, 4)), np.ones((1, 3), int), np.ones((4, 4)))
print(*score)
states = fastkeras.engines("crf")
print(states["native"], states["tensorflow_native"], states["keras"], sep="\\n")
"""


def report_from(folder):
    ran = run("-c", REPORT, cwd=folder, PYTHONPATH=str(folder))
    assert ran.returncode == 0, ran.stderr
    file, *report = ran.stdout.splitlines()
    assert file.startswith(str(folder))
    return report


def test_without_compiled_parts_the_next_engine_answers_and_says_why(package_copy):
    engine, value, native, ops, keras = report_from(package_copy)
    assert (engine, value, keras) == ("fastkeras.crf._numba", "5.0", "ready")
    assert "_core" in native
    assert "libfastkeras_tf_ops.so was not built" in ops


def test_broken_compiled_parts_are_passed_over_and_named(package_copy):
    for part in compiled_parts():
        (package_copy / "fastkeras" / part.name).write_bytes(b"not a library")
    engine, value, native, ops, keras = report_from(package_copy)
    assert (engine, value, keras) == ("fastkeras.crf._numba", "5.0", "ready")
    assert "_core" in native
    assert f"does not load under TensorFlow {tf.__version__}" in ops


def test_failing_compiler_does_not_fail_the_build(package_copy):
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, package_copy)
    shutil.copytree(ROOT / "csrc", package_copy / "csrc")
    build = ("setup.py", "build_ext", "--inplace")
    ran = run(*build, cwd=package_copy, CC="false", CXX="false")
    assert ran.returncode == 0, ran.stderr
    for part in ("_core", "libfastkeras_tf_ops", "libfastkeras_tf_xla_"):
        assert re.search(rf"fastkeras\.{part}\w* was not built", ran.stdout + ran.stderr)
    assert not list((package_copy / "fastkeras").glob("*.so"))


def test_declarations_agree_with_the_headers_of_tensorflow():
    compiler = os.environ.get("CXX", "g++")
    flags = ["-std=gnu++17", "-fsyntax-only", "-DFASTKERAS_TENSORFLOW_HEADERS"]
    includes = [f"-I{ROOT / 'csrc'}", f"-I{tf.sysconfig.get_include()}"]
    source = ROOT / "csrc/crf/tensorflow.cc"
    ran = subprocess.run([compiler, *flags, *includes, source], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_doctor_reports_versions_and_engines(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert f"TensorFlow    {tf.__version__}" in printed
    assert re.search(r"under XLA, on CPUs\n  crf +ready\n", printed)
    assert f"instructions  {_core.instruction_set()}" in printed
    for engine, state in fastkeras.engines("crf").items():
        assert re.search(rf"^  {engine} +{state}$", printed, re.MULTILINE)


def test_module_runs_as_a_command():
    ran = run("-m", "fastkeras", "--help", cwd=PACKAGE.parent)
    assert ran.returncode == 0, ran.stderr
    assert "doctor" in ran.stdout


def test_documents_link_to_files_that_exist():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(
            r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text("utf-8")
        ):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
