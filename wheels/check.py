"""Installs wheels where no compiler is, and runs a part of the suite against what was installed.

    python wheels/check.py dist python3.11 python3.13    the oldest Python and the newest
    python wheels/check.py dist python3.11 --only torch

Each environment is made for this and removed afterwards. The tests come from the source
distribution, which is unpacked in another folder, without the package: so that it is the
installed one that is tested, and that nothing is missing from either.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import headers

ENGINES = ["seq2seq/test_select.py", "crf/test_engines.py", "optimizers/test_engines.py"]
IN_GRAPHS = ["crf/test_tensorflow_native.py", "crf/test_xla.py", "test_saved_graphs.py", *ENGINES]
WITHOUT_XLA = [test for test in IN_GRAPHS if test != "crf/test_xla.py"]  # docs/packaging.md
BARE = ["test_base_install.py", "crf/test_reference.py", "word2vec/test_reference.py"]
OLDEST, *_, NEWEST = ((f"tensorflow-cpu=={v}", "keras>=3.5") for v in headers.TENSORFLOW)
ENVIRONMENTS = {  # name: the backend of Keras, what pip installs, on which Pythons, which tests
    "numpy": ("", (), "every", BARE),
    "oldest-tensorflow": ("tensorflow", OLDEST, "oldest", WITHOUT_XLA),
    "newest-tensorflow": ("tensorflow", NEWEST, "newest", IN_GRAPHS),
    "jax": ("jax", ("jax", "keras>=3.5"), "newest", [*ENGINES, "backends/test_jax_ops.py"]),
    "torch": ("torch", ("torch==2.13.0", "keras>=3.5"), "oldest", ENGINES),
}
TEST_TOOLS = ("hypothesis>=6.100", "pytest>=8", "pytest-xdist>=3.5")
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++")


def check(name, python, wheels, folder, sources, files, see, short):
    """Raise an error if the wheel does not work in an environment made in `folder`."""
    backend, requirements, _, tests = ENVIRONMENTS[name]
    subprocess.run([python, "-m", "venv", folder], check=True)
    interpreter = Path(folder, "bin", "python")
    tag = printed(interpreter, "-c", "import sys; print(sys.implementation.cache_tag)")
    (wheel,) = Path(wheels).glob(
        f"*-{tag.strip().replace('cpython-', 'cp')}-*{platform.machine()}.whl"
    )
    with zipfile.ZipFile(wheel) as archive:
        missing = files - set(archive.namelist())
    if missing:
        raise SystemExit(f"{wheel.name} lacks {', '.join(sorted(missing))}")
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir")
    requirements = TEST_TOOLS if see else (*requirements, *TEST_TOOLS)
    subprocess.run([interpreter, *pip, wheel, *requirements], check=True, env=clean)
    if see:  # not before, since pip would find there what it is to install here
        site = printed(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
        Path(site.strip(), "see.pth").write_text(f"{Path(see).resolve()}\n")
    environment = {
        **{**clean, "PATH": str(interpreter.parent), "CC": "false", "CXX": "false", "CI": "true"},
        **({"KERAS_BACKEND": backend} if backend else {}),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    assert not any(shutil.which(compiler, path=environment["PATH"]) for compiler in COMPILERS)
    told = printed(interpreter, "-m", "fastkeras", "doctor", "--json", env=environment, cwd=sources)
    wrong = list(faults(json.loads(told), backend, folder, name == "newest-tensorflow"))
    if wrong:
        raise SystemExit(
            "\n".join([f"in the environment {name}, `fastkeras doctor` says:", *wrong])
        )
    which = [f"tests/{test}" for test in tests][: 1 if short else None]
    select = f"{backend}_native or native" if backend in ("jax", "torch") else "not cupy"
    subprocess.run(
        [interpreter, "-m", "pytest", "-q", "-n", "2", "-k", select, *which],
        cwd=sources,
        env=environment,
        check=True,
    )


def faults(told, backend, folder, has_xla):
    """Yield what is not as in a wheel that works; engines that fall back would pass any test."""
    if str(Path(folder).resolve()) not in told["installed"]["fastkeras"]:
        yield f"fastkeras is {told['installed']['fastkeras']}, not the installed one"
    if (told["backend"] or "") != backend:
        yield f"the backend is {told['backend']}, not {backend}"
    yield from told["problems"]
    for domain, engines in told["engines"].items():
        for engine in ("native", f"{backend}_native"):
            if engines.get(engine, "ready") != "ready":
                yield f"{domain}, {engine}: {engines[engine]}"
    for domain, engine in told["in_fit"].items():
        if not engine.startswith(f"{backend}_native"):
            yield f"in fit, {domain} takes {engine}"
    for domain, state in told["under_xla"].items():
        if has_xla and state != "ready":
            yield f"under XLA, {domain}: {state}"


def printed(*command, **options):
    ran = subprocess.run(list(command), stdout=subprocess.PIPE, text=True, **options)
    return ran.stdout


def unpacked(wheels, folder):
    """Return the folder of a source distribution without its package, and whose files these are."""
    (archive,) = Path(wheels).glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (sources,) = Path(folder).iterdir()
    package = [file for file in (sources / "fastkeras").rglob("*") if file.is_file()]
    files = {str(file.relative_to(sources)) for file in package}
    shutil.rmtree(sources / "fastkeras")
    return sources, files


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheels", help="folder of the wheels and of the source distribution")
    parser.add_argument("python", nargs="+", help="interpreters, the oldest first")
    parser.add_argument("--only", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS))
    parser.add_argument("--short", action="store_true", help="run the first file of the tests only")
    parser.add_argument("--see", help="take the framework from this site-packages, install none")
    options = parser.parse_args()
    pythons = {"oldest": options.python[:1], "newest": options.python[-1:], "every": options.python}
    os.makedirs("build", exist_ok=True)
    with tempfile.TemporaryDirectory(dir=Path("build").resolve(), prefix="check-") as folder:
        for name in options.only:
            for python in pythons[ENVIRONMENTS[name][2]]:
                began = time.monotonic()
                place = Path(folder, "environment")
                sources, files = unpacked(options.wheels, Path(folder, "sources"))
                print(f"{name}, {python}", flush=True)
                check(
                    name, python, options.wheels, place, sources, files, options.see, options.short
                )
                print(f"{name}, {python}: passed in {time.monotonic() - began:.0f} s", flush=True)
                shutil.rmtree(place)
                shutil.rmtree(Path(folder, "sources"))


if __name__ == "__main__":
    main()
