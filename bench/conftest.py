"""The same two cores for all; records of the machine; the results file; the ratios at the end."""

import json
import os
import platform
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

CORES = sorted(os.sched_getaffinity(0))[:2]
os.sched_setaffinity(0, CORES)  # inherited by every thread that any library starts later
for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
    os.environ[f"{library}_NUM_THREADS"] = str(len(CORES))
os.environ["OMP_WAIT_POLICY"] = "passive"  # one library's spinning threads slow down the next
os.environ["GOMP_SPINCOUNT"] = "0"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if " " in os.environ.get("CXX", ""):
    del os.environ["CXX"]  # as "ccache g++", which torch.compile takes for the name of a program

HERE = Path(__file__).parent
sys.path.append(str(HERE))
PACKAGES = ("numpy", "numba", "tensorflow-cpu", "keras", "jax", "torch", "pytorch-crf")
PACKAGES += ("gensim", "fasttext", "flash-semicrf", "transformers", "ctranslate2")
results = {}  # by domain

from fastkeras.bench import limits  # noqa: E402 - NumPy counts the cores when it is loaded


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="a tenth of the time; writes no results")
    parser.addoption("--results", type=Path, help="default: bench/results/<machine>.json")


def pytest_configure(config):
    if hasattr(config.option, "benchmark_columns"):
        config.option.benchmark_quiet = True


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.clear()
    machine_info.update(machine())


def machine():
    """The machine and versions, without which a time means nothing."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = None
    git = subprocess.run(["git", "describe", "--always"], capture_output=True, text=True, cwd=HERE)
    return {
        "cpu": limits.cpu(),
        "instruction_set": instruction_set(),
        "threads": len(CORES),
        "python": platform.python_version(),
        "versions": installed,
        "backend": os.environ["KERAS_BACKEND"],
        "commit": git.stdout.strip(),
    }


def instruction_set():
    try:
        from fastkeras import _core
    except ImportError:
        return None
    return _core.instruction_set()


@pytest.fixture(scope="session")
def quick(request):
    return request.config.option.quick


@pytest.fixture(scope="module")
def records(request):
    """The findings of the benchmarks of a file, for its results file and its summary."""
    domain = request.module.__name__.rpartition("bench_")[2]
    return results.setdefault(domain, {"machine": machine()})


def pytest_terminal_summary(terminalreporter, config):
    for domain, own in results.items():
        write(terminalreporter, config, domain, own)


def write(terminalreporter, config, domain, own):
    for line in import_module(f"{domain}_summary").summary(own):
        terminalreporter.write_line(line)
    path = config.option.results or results_path(domain, own["machine"])
    is_whole = not (config.option.quick or config.option.keyword)
    if config.option.results or is_whole:
        store(own, path)
        terminalreporter.write_line(f"written: {path}")


def results_path(domain, of_machine):
    words = f"{of_machine['cpu']} {len(CORES)} cores"
    if of_machine["backend"] != "tensorflow":
        words = f"on {of_machine['backend']} {words}"
    name = re.sub(r"[^a-z0-9]+", "-", words.lower())
    return HERE / "results" / f"{domain.replace('_', '-')}-{name.strip('-')}.json"


def store(results, path):
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)
