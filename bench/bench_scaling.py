"""How the cost of each native kernel grows with each size of its problem (docs/speed.md)."""

import pytest

from fastkeras.bench.limits import processors
from fastkeras.bench.scaling import ASYMPTOTIC, REPEATS, SWEEPS, exponent, measure, with_threads

ALL = [*SWEEPS, *with_threads(processors())]


@pytest.mark.parametrize("sweep", ALL, ids=lambda sweep: f"{sweep.kernel}-{sweep.size_of}")
def test_scaling(benchmark, records, quick, sweep):
    repeats = REPEATS // 5 if quick else 3 * REPEATS
    seconds = benchmark.pedantic(measure, (sweep, None, repeats), rounds=1)
    row = {"kernel": sweep.kernel, "size_of": sweep.size_of, "sizes": sweep.sizes}
    row["seconds"] = seconds.tolist()
    if not sweep.threads:
        large = slice(-ASYMPTOTIC, None)
        row["exponent"], row["standard_error"] = exponent(sweep.sizes[large], seconds[large])
    records.setdefault("scaling", []).append(row)
    assert seconds.min() > 0
