"""The benchmark that pytest collects for `fastkeras bench`; `Plugin` gives it the cases."""

import time

import numpy as np
import pytest

WARM = 3  # at most so many rounds that are not counted


class Plugin:
    """Gives pytest the cases, shows the progress, and keeps the measurements."""

    def __init__(self, cases, seconds, progress):
        self.cases, self.seconds, self.progress = cases, seconds, progress
        self.rows, self.skipped, self.wrong = [], [], []

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
            self.wrong.append(f"{report.nodeid.partition('::')[2]}: {report.longreprtext}")
        if report.when == "teardown":
            self.progress()


def test_case(benchmark, case, plugin):
    """Check the result first, then measure the time."""
    try:
        call = case.prepare()
        found = call()  # compiles
    except ImportError as error:
        plugin.skipped.append((case.function, case.provider, str(error)))
        pytest.skip(str(error))
    errors = case.errors(found)
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    rounds = int(np.clip(plugin.seconds / max(once, 1e-9), 3, 1000))
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=min(rounds // 10, WARM))
    low, median, high = np.percentile(benchmark.stats.stats.data, [20, 50, 80]).tolist()
    row = {"function": case.function, "provider": case.provider, "size": case.size}
    row["ours"] = case.ours
    plugin.rows.append(
        {**row, "median": median, "p20": low, "p80": high, "rounds": rounds, **errors}
        | {"work": case.work}
    )
