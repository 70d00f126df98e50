"""The benchmarks of bench/ run: each is started with the smallest of its problems."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")
pytest.importorskip("tensorflow")

ROOT = Path(__file__).parents[1]
# The parameters of those that need no peer of another framework and take a second or two.
SMALLEST = (
    "named and (viterbi_and_gradient or vary)",
    "named and gradient-native and not tensorflow",
    "semi_markov",
    "test_rule and lion",
    "cost_of_a_variable and 975",
    "test_select and native",
    "test_scaling and optimizer",
)


def test_benchmarks_run():
    """In one process, and not a worker of xdist, in which pytest-benchmark measures nothing."""
    own = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    expression = " or ".join(f"({each})" for each in SMALLEST)
    command = [sys.executable, "-m", "pytest", "-q", "--quick", "-k", expression]
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", *map(str, sorted(ROOT.glob("bench/bench_*.py")))],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=own,
    )
    assert run.returncode == 0, run.stdout[-4000:]
