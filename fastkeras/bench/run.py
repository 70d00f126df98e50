"""The benchmark that pytest collects for `fastkeras bench`; `Plugin` gives it the cases."""

import time

import numpy as np
import pytest

from fastkeras.bench.limits import Calibration, processors

WARM = 3  # at most so many rounds that are not counted
LEAST, MOST = 3, 1000  # rounds
PACKAGES = {"torchcrf": "pytorch-crf", "tensorflow": "tensorflow-cpu"}  # of another name


class Plugin:
    """Gives pytest the cases, shows the progress, and keeps the measurements."""

    def __init__(self, cases, seconds, progress):
        self.cases, self.progress = cases, progress
        self.end, self.left = time.perf_counter() + seconds, len(cases)
        self.seconds = seconds / len(cases)
        self.calibration = Calibration()
        self.rows, self.skipped, self.wrong = [], [], []

    def share(self):
        """The seconds for the rounds of a case: its share of what is left after preparing it.

        Loading frameworks and compiling may take all the time; then it is a quarter of its share.
        """
        left = (self.end - time.perf_counter()) / max(self.left, 1)
        return max(left, self.seconds / 4)

    def pytest_generate_tests(self, metafunc):
        """One test for each case."""
        names = [f"{case.function}-{case.provider}-{case.size}" for case in self.cases]
        metafunc.parametrize("case", self.cases, ids=names)

    @pytest.fixture
    def plugin(self):
        """This object, for the test."""
        return self

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report):
        """Count a finished test; if it failed, keep the reason."""
        if report.failed:
            name = report.nodeid.partition("[")[2].removesuffix("]")
            self.wrong.append(f"{name}: {report.longreprtext.removeprefix('E').strip()}")
        if report.when == "teardown":
            self.left -= 1
            self.progress(1)


def test_case(benchmark, case, plugin):
    """Check the result first, then measure the time."""
    plugin.progress(0, f"{case.function}, {case.provider}")
    try:
        call = case.prepare()
        found = call()  # compiles
    except (ImportError, MemoryError) as error:
        reason = _reason(error)
        plugin.skipped.append((case.function, case.provider, reason))
        pytest.skip(reason)
    errors = case.errors(found)
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    rounds = int(np.clip(plugin.share() / max(once, 1e-9), LEAST, MOST))
    beside = [plugin.calibration.seconds()]
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=min(rounds // 10, WARM))
    beside.append(plugin.calibration.seconds())
    low, median, high = np.percentile(benchmark.stats.stats.data, [20, 50, 80]).tolist()
    row = {"function": case.function, "provider": case.provider, "size": case.size}
    row |= {"threads": processors(), "ours": case.ours}
    row |= {"median": median, "p20": low, "p80": high, "rounds": rounds}
    row["calibration"], row["long_calibration"] = np.mean(beside, axis=0).tolist()
    row |= {**errors, "work": case.work}
    plugin.rows.append(row)


def _reason(error):
    """Why a provider cannot be measured here, and what helps."""
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}"
    missing = isinstance(error, ModuleNotFoundError) and error.name
    if not missing or "it takes" in str(error):
        return str(error)
    return f"{error}: it takes `pip install {PACKAGES.get(missing, missing)}`"
