"""The package as users get it: light to import, and usable where nothing could be compiled."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
import tensorflow as tf

import fastkeras
from fastkeras import _build, _core, _doctor
from fastkeras._ops import library
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


LAZY = [
    path.parent for path in PACKAGE.rglob("__init__.py") if "import_module(" in path.read_text()
]


@pytest.mark.parametrize("name", [".".join(("", *p.relative_to(PACKAGE).parts)) for p in LAZY])
def test_lazy_names_are_those_that_type_checkers_see(name):
    package = import_module(f"fastkeras{name}")
    stub = ast.parse(Path(package.__file__).with_name("__init__.pyi").read_text("utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    told = {name.asname: node.module for node in imports for name in node.names}
    told.pop("Any", None)
    assert sorted(told) == sorted({*package.__all__} - {"__version__"})
    for public, module in told.items():
        module = import_module(module)
        value = getattr(module, public, None) or import_module(f"{module.__name__}.{public}")
        assert getattr(package, public) is value
    assert (PACKAGE / "py.typed").exists()


def test_version_has_one_source():
    assert version("fastkeras") == fastkeras.__version__


def compiled_parts():
    version = library.VERSION.replace(".", "_")
    libraries = ("ops", f"variable_ops_{version}", f"xla_{version}", f"variable_xla_{version}")
    return Path(_core.__file__), *(PACKAGE / f"libfastkeras_tf_{name}.so" for name in libraries)


def test_compiled_parts_are_in_the_package_and_have_their_kernels_from_one_library():
    kernels = list(PACKAGE.glob("libfastkeras_kernels.so.*"))
    for part in compiled_parts():
        assert part.parent == PACKAGE
        content = part.read_bytes()
        assert len(content) < 2e6  # far less than with TensorFlow, or the kernels, inside
        assert sum(path.name.encode() in content for path in kernels) == 1


def test_the_library_of_the_kernels_shows_nothing_else():
    for kernels in PACKAGE.glob("libfastkeras_kernels.so.*"):
        nm = ("nm", "--dynamic", "--defined-only", "--demangle", kernels)
        shown = subprocess.run(nm, capture_output=True, text=True, check=True).stdout
        of_us = [line for line in shown.splitlines() if "fastkeras" in line]
        assert of_us
        table = r"fastkeras::(\w+::)+(portable|avx2|avx512)_(float|double)\(\)"
        assert [line for line in of_us if not re.search(table, line)] == []


@pytest.fixture
def package_copy(tmp_path):
    """A copy of the package without its compiled parts."""
    ignored = shutil.ignore_patterns("*.so", "*.so.*", "_built.json", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "fastkeras", ignore=ignored)
    return tmp_path


REPORT = """
import sys  # without editable installations, which would give the copy what it lacks
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
    assert (engine, value, keras) == ("fastkeras.crf._engines.numba", "5.0", "ready")
    assert f"_core was not built: nothing is compiled in {package_copy / 'fastkeras'}" in native
    assert f"libfastkeras_tf_ops was not built: nothing is compiled in {package_copy}" in ops


def test_broken_compiled_parts_are_passed_over_and_named(package_copy):
    for part in compiled_parts():
        (package_copy / "fastkeras" / part.name).write_bytes(b"not a library")
    engine, value, native, ops, keras = report_from(package_copy)
    assert (engine, value, keras) == ("fastkeras.crf._engines.numba", "5.0", "ready")
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
    assert not list((package_copy / "fastkeras").glob("*.so*"))
    _, _, native, ops, _ = report_from(package_copy)
    again = f"pip install --editable {package_copy} --verbose` shows what the compiler says"
    for part, state in (("_core", native), ("libfastkeras_tf_ops", ops)):
        assert re.search(f"^{part} was not built: [Cc]ommand '.*false' ", state)
        assert state.endswith(again)


FAKE_COMPILER = """#!/bin/sh
echo "$@" >> "$LOG"
all="$*"
while [ $# -gt 1 ]; do [ "$1" = -o ] && echo "$all" > "$2"; shift; done
"""

BUILD_WITHOUT_TENSORFLOW = """
import pathlib, runpy, sys
is_dir = pathlib.Path.is_dir
pathlib.Path.is_dir = lambda path: "tensorflow" not in path.parts and is_dir(path)
sys.argv = ["setup.py", "build_ext", "--inplace"]
runpy.run_path("setup.py", run_name="__main__")
"""


def test_objects_are_of_one_compiler_and_one_tensorflow(package_copy):
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, package_copy)
    for name in ("module.cc", "machine/memory.cc", "optimizers/doors/tensorflow.cc"):
        (package_copy / "csrc" / name).parent.mkdir(parents=True, exist_ok=True)
        (package_copy / "csrc" / name).touch()
    compiler, log = package_copy / "compiler", package_copy / "log"
    compiler.write_text(FAKE_COMPILER)
    compiler.chmod(0o755)

    def compiled(tensorflow, **environment):
        log.write_text("")
        site = package_copy / f"site-{tensorflow}"
        (site / "tensorflow/include/tensorflow/core/public").mkdir(parents=True, exist_ok=True)
        information = site / f"tensorflow_cpu-{tensorflow}.dist-info"
        information.mkdir(exist_ok=True)
        (information / "METADATA").write_text(f"Name: tensorflow_cpu\nVersion: {tensorflow}\n")
        settings = {"CC": str(compiler), "CXX": str(compiler), "LOG": str(log)}
        settings |= {"FASTKERAS_TENSORFLOW": str(site), **environment}
        ran = run("setup.py", "build_ext", "--inplace", cwd=package_copy, **settings)
        assert ran.returncode == 0, ran.stderr
        assert "_core" in log.read_text()  # always linked again: its objects may be older
        return set(re.findall(r"csrc/(\S+)\.cc", log.read_text()))

    assert compiled("2.20.0") == {"module", "machine/memory", "optimizers/doors/tensorflow"}
    assert compiled("2.20.0") == set()
    assert compiled("2.21.0") == {"optimizers/doors/tensorflow"}
    assert compiled("2.20.0") == set()
    assert compiled("2.21.0", CXXFLAGS="-g") == {
        "module",
        "machine/memory",
        "optimizers/doors/tensorflow",
    }
    (package_copy / "csrc/machine/memory.cc").write_text("int changed;")
    assert compiled("2.21.0") == {"machine/memory"}
    for path in (package_copy / "fastkeras").glob("*variable_ops*"):
        path.unlink()
    sites = (str(package_copy / f"site-2.{minor}.0") for minor in (20, 21))
    compiled("2.21.0", FASTKERAS_TENSORFLOW=os.pathsep.join(sites))
    names = {path.name for path in (package_copy / "fastkeras").glob("*.so")}
    assert {f"libfastkeras_tf_variable_ops_2_{minor}.so" for minor in (20, 21)} <= names
    record = package_copy / "fastkeras/_built.json"
    assert json.loads(record.read_text())["tensorflow"] == "2.20.0, 2.21.0"
    reason = "TensorFlow 2.20.0 lacks XLA's header ffi.h"  # ours has no headers at all
    assert reason in json.loads(record.read_text())["failed"]["libfastkeras_tf_xla_2_20"]
    ran = run("-c", BUILD_WITHOUT_TENSORFLOW, cwd=package_copy, CC=str(compiler), LOG=str(log))
    assert "no TensorFlow was found" in ran.stdout + ran.stderr
    assert json.loads(record.read_text())["tensorflow"] == "2.20.0, 2.21.0"  # they still exist
    (kernels,) = (package_copy / "fastkeras").glob("libfastkeras_kernels.so.*")
    (package_copy / "csrc/machine/memory.h").write_text("int declared;")
    compiled("2.21.0")
    left = {path.name for path in (package_copy / "fastkeras").glob("libfastkeras_kernels.so.*")}
    assert len(left) == 2 and kernels.name in left  # which the library for 2.20 is linked to
    compiled("2.20.0")
    (new,) = (package_copy / "fastkeras").glob("libfastkeras_kernels.so.*")
    assert new.name in left - {kernels.name}


@pytest.mark.parametrize("named", ("tensorflow", "jax"))
def test_a_framework_that_is_named_has_to_be_there(package_copy, named):
    variable = f"FASTKERAS_{named.upper()}"
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, package_copy)
    ran = run("setup.py", "--name", cwd=package_copy, **{variable: str(package_copy)})
    assert ran.returncode != 0
    distribution = {"tensorflow": "TensorFlow", "jax": "jaxlib"}[named]
    assert f"{variable}='{package_copy}' has no {distribution}; name " in ran.stderr


@pytest.mark.parametrize(
    ("built", "files", "tensorflow", "expected"),
    [
        (None, [], None, "part was not built: nothing is compiled in {folder}; `{again}` does it"),
        (
            {"failed": {"part": "no g++"}},
            [],
            None,
            "part was not built: no g++; `{again} --verbose` ",
        ),
        (
            {"failed": {}},
            [],
            None,
            "part was built, but is gone from {folder}; `{again}` builds it",
        ),
        (
            {"failed": {}},
            ["part.cpython-35.so"],
            None,
            "part.cpython-35.so is not for this Python 3",
        ),
        ({"tensorflow": None, "failed": {}}, [], "2.21", "was built where no TensorFlow was found"),
        (
            {"tensorflow": "2.20.0", "failed": {}},
            [],
            "2.21",
            "TensorFlow 2.20.0, and this is 2.21; ",
        ),
    ],
)
def test_reason_of_a_missing_part(tmp_path, monkeypatch, built, files, tensorflow, expected):
    folder = tmp_path / "fastkeras"
    folder.mkdir()
    (tmp_path / "setup.py").touch()
    for file in files:
        (folder / file).touch()
    if built is not None:
        (folder / "_built.json").write_text(json.dumps(built))
    monkeypatch.setattr(_build, "FOLDER", folder)
    monkeypatch.setattr(_build, "elsewhere", lambda: None)
    again = f"{sys.executable} -m pip install --editable {tmp_path}"
    assert expected.format(folder=folder, again=again) in _build.reason("part", tensorflow)


def installed_in(folder, monkeypatch, **files):
    """Pretend that fastkeras is installed in a folder, with these files of its metadata."""
    (folder / "fastkeras").mkdir(parents=True)
    (folder / "fastkeras/_engines.py").touch()
    information = folder / "fastkeras-0.1.0.dist-info"
    information.mkdir()
    for name, text in {"METADATA": "Name: fastkeras\nVersion: 0.1.0\n", **files}.items():
        (information / name).write_text(text)
    monkeypatch.syspath_prepend(folder)


def test_sources_that_hide_an_installation_are_told_so(tmp_path, monkeypatch):
    installed_in(tmp_path / "site-packages", monkeypatch)
    monkeypatch.setattr(_build, "FOLDER", tmp_path / "clone" / "fastkeras")
    sources, installed = (tmp_path / name / "fastkeras" for name in ("clone", "site-packages"))
    assert _build.reason("_core").startswith(
        f"Python took the sources in {sources}, where nothing is compiled, for the fastkeras "
        f"installed in {installed}; start Python in another folder, or `"
    )


@pytest.mark.parametrize(
    ("installer", "url", "expected"),
    [
        (
            "pip",
            None,
            "{python} -m pip install --force-reinstall --no-deps --no-cache-dir fastkeras",
        ),
        ("pip", "file:///src/it", "--no-cache-dir /src/it"),
        ("uv", "file:///src/it", "FASTKERAS_TENSORFLOW={site} uv pip install --python {python} "),
        (
            "pip",
            "file:///dist/fastkeras-0.1.0-cp311.whl",
            "--no-cache-dir THE_SOURCES_OF_FASTKERAS",
        ),
    ],
)
def test_command_that_builds_again(tmp_path, monkeypatch, installer, url, expected):
    files = {"INSTALLER": installer + "\n"}
    if url:
        files["direct_url.json"] = json.dumps({"url": url, "dir_info": {}})
    installed_in(tmp_path, monkeypatch, **files)
    monkeypatch.setattr(_build, "FOLDER", tmp_path / "fastkeras")
    site = sysconfig.get_path("platlib")
    assert expected.format(python=sys.executable, site=site) in _build.rebuild(_build.NAMED)


def test_compiled_kernels_of_another_folder_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(_build, "FOLDER", tmp_path)
    with pytest.raises(ImportError, match=rf"{tmp_path}, where nothing is compiled|_core was not"):
        _build.core()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git knows the list of files")
def test_source_distribution_has_the_files_of_the_repository_and_no_others(tmp_path):
    egg_info, sdist = ("egg_info", "--egg-base", tmp_path), ("sdist", "--dist-dir", tmp_path)
    ran = run("setup.py", "--quiet", *egg_info, *sdist, "--formats=tar", cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    with tarfile.open(tmp_path / f"fastkeras-{fastkeras.__version__}.tar") as archive:
        packed = {file.name.partition("/")[2] for file in archive if file.isfile()}
    listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    of_no_use_elsewhere = (".ci/", ".git", ".pre-commit-config.yaml")
    wanted = {name for name in listed if not name.startswith(of_no_use_elsewhere)}
    assert not wanted - packed
    made = ("PKG-INFO", "setup.cfg")
    assert not {name for name in packed - wanted if name not in made and "egg-info/" not in name}


def test_declarations_agree_with_the_headers_of_tensorflow():
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    flags = ["-std=gnu++17", "-fsyntax-only", "-DFASTKERAS_TENSORFLOW_HEADERS"]
    includes = [f"-I{ROOT / 'csrc'}", f"-I{tf.sysconfig.get_include()}"]
    source = ROOT / "csrc/crf/doors/tensorflow.cc"
    ran = subprocess.run([*compiler, *flags, *includes, source], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_doctor_reports_versions_and_engines(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert f"fastkeras     {fastkeras.__version__}, in {PACKAGE}\n" in printed
    assert f"built         for TensorFlow {tf.__version__}, by " in printed
    assert "problems" not in printed
    assert re.search(r"in fit, on the backend tensorflow\n  crf +tensorflow_native; tens", printed)
    assert f"TensorFlow    {tf.__version__}" in printed
    assert re.search(r"under XLA, on CPUs\n  crf +ready\n", printed)
    assert f"instructions  {_core.instruction_set()}" in printed
    for engine, state in fastkeras.engines("crf").items():
        assert re.search(rf"^  {engine} +{state}$", printed, re.MULTILINE)


def test_doctor_tells_programs_the_same(capsys):
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["engines"]["crf"] == fastkeras.engines("crf")
    assert told["backend"] == "tensorflow" and told["problems"] == []
    assert told["in_fit"]["crf"].startswith("tensorflow_native")
    assert told["installed"]["TensorFlow"] == tf.__version__


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        (
            {"FASTKERAS_ENGINE": "nativ"},
            "'nativ' names no engine (did you mean 'native'?): unset it",
        ),
        (
            {"KERAS_BACKEND": "jax"},
            "No module named 'jax', which Keras takes as its backend: set KER",
        ),
    ],
)
def test_doctor_names_problems_and_fails(environment, problem):
    ran = run("-m", "fastkeras", "doctor", cwd=PACKAGE.parent, **environment)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert problem in ran.stdout.partition("problems")[2]


def test_doctor_asks_whether_the_engine_is_for_the_backend(monkeypatch):
    for engine, other in (("tensorflow", "torch"), ("jax", "tensorflow"), ("torch", "jax")):
        monkeypatch.setenv("FASTKERAS_ENGINE", f"{engine}_native")
        (problem,) = _doctor._problems({}, other)
        assert f"'{engine}_native' takes no array of {other}, the backend of Keras" in problem
        assert f"set KERAS_BACKEND={engine}" in problem
        assert not _doctor._problems({}, engine)


def test_module_runs_as_a_command():
    ran = run("-m", "fastkeras", "--help", cwd=PACKAGE.parent)
    assert ran.returncode == 0, ran.stderr
    assert "doctor" in ran.stdout


def test_documents_link_to_files_that_exist():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(
            r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text("utf-8")
        ):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
