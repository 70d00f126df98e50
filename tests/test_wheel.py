"""A release's wheel: what is built into it, and the checks that it has to pass."""

import json
import re
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "wheels")
    return import_module


def minor(version):
    return tuple(map(int, version.split(".")[:2]))


def test_wheels_have_libraries_for_every_tensorflow_supported(script):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    floor = extras["optional-dependencies"]["tensorflow-cpu"][0]
    minors = [minor(version) for version in script("headers").TENSORFLOW]
    assert minors[0] == minor(floor.partition(">=")[2])
    assert minors == [(2, minors[0][1] + i) for i in range(len(minors))]
    tensorflow = pytest.importorskip("tensorflow")
    assert minors[-1] >= minor(tensorflow.__version__)  # a new one has come: add it


BUILT = {
    "tensorflow": "2.19.1, 2.20.0",
    "jaxlib": "0.6.0",
    "failed": {
        f"libfastkeras_tf_{name}_2_19": "TensorFlow 2.19.1 lacks XLA's header"
        for name in ("xla", "variable_xla")
    },
}
PARTS = (
    *("_core.cpython-311", "libfastkeras_tf_ops", "libfastkeras_kernels", "libfastkeras_jax"),
    *("libfastkeras_tf_variable_ops_2_19", "libfastkeras_tf_variable_ops_2_20"),
    *("libfastkeras_tf_xla_2_20", "libfastkeras_tf_variable_xla_2_20"),
)


def faults_of(tmp_path, script, built, parts):
    wheel = tmp_path / "fastkeras.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("fastkeras/_built.json", json.dumps(built))
        for name, content in parts.items():
            archive.writestr(f"fastkeras/{name}.so", content)
    return list(script("repair").faults(wheel))


def test_a_whole_wheel_has_no_faults(tmp_path, script):
    assert faults_of(tmp_path, script, BUILT, dict.fromkeys(PARTS, b"\x7fELF")) == []
    built = {"tensorflow": None, "jaxlib": None, "failed": {}}
    assert faults_of(tmp_path, script, built, dict.fromkeys(PARTS[:3], b"\x7fELF")) == []


def test_a_wheel_takes_the_place_of_one_for_the_same_machines_alone(script):
    names = ("2_35_x86_64", "2_28_x86_64", "2_35_aarch64")
    new, old, other = (
        script("repair").whom(Path(f"fastkeras-0.1.0-cp311-cp311-manylinux_{name}.whl"))
        for name in names
    )
    assert new == old != other


@pytest.mark.parametrize(
    ("without", "more", "failed", "fault"),
    [
        (PARTS[-1], {}, {}, "libfastkeras_tf_variable_xla_2_20 is missing: nobody says why"),
        (PARTS[2], {}, {}, "libfastkeras_kernels is missing: nobody says why"),
        (PARTS[3], {}, {"libfastkeras_jax": "no g++"}, "libfastkeras_jax is missing: no g++"),
        (None, {"libtensorflow_framework": b""}, {}, "libtensorflow_framework does not belong"),
        (None, {PARTS[0]: b"\0.symtab\0"}, {}, f"fastkeras/{PARTS[0]}.so is not stripped"),
        (None, {PARTS[0]: bytes(6_000_001)}, {}, "bytes, more than 6,000,000"),
    ],
)
def test_faults_of_a_wheel_are_named(tmp_path, script, without, more, failed, fault):
    parts = {name: b"\x7fELF" for name in PARTS if name != without} | more
    built = {**BUILT, "failed": {**BUILT["failed"], **failed}}
    (found,) = faults_of(tmp_path, script, built, parts)
    assert re.search(re.escape(fault), found)


def told(**changes):
    """What `fastkeras doctor --json` tells of an installation that works, with these changes."""
    engines = {"native": "ready", "tensorflow_native": "ready", "jax_native": "No module named"}
    return {
        "installed": {"fastkeras": "0.1.0, in /environment/lib/fastkeras"},
        "backend": "tensorflow",
        "problems": [],
        "engines": {"crf": engines | changes.pop("crf", {})},
        "in_fit": {"crf": "tensorflow_native; keras with jit_compile=True"},
        "under_xla": {"crf": "ready"},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"installed": {"fastkeras": "0.1.0, in /clone"}}, "fastkeras is 0.1.0, in /clone, not"),
        ({"backend": "torch"}, "the backend is torch, not tensorflow"),
        ({"problems": ["a symbol is missing"]}, "a symbol is missing"),
        ({"crf": {"native": "not built"}}, "crf, native: not built"),
        ({"crf": {"tensorflow_native": "not built"}}, "crf, tensorflow_native: not built"),
        ({"in_fit": {"crf": "keras"}}, "in fit, crf takes keras"),
        ({"under_xla": {"crf": "not built"}}, "under XLA, crf: not built"),
    ],
)
def test_an_engine_that_falls_back_is_a_fault_of_the_wheel(script, changes, fault):
    faults = script("check").faults(told(**changes), "tensorflow", "/environment", has_xla=True)
    found = [text[: len(fault)] for text in faults] if fault else list(faults)
    assert found == ([fault] if fault else [])
