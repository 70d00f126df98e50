"""What this machine can do at best, and how fast it is right now."""

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

try:
    from fastkeras import _core
except ImportError:
    _core = None

MULTIPLY_ADDS = 1 << 19  # in each register: about a millisecond
MATRIX, MATRICES = 64, 256  # small enough for NumPy to multiply each on the thread that asks
EXPS, TIMES = 1 << 16, 64
LEAST_COPIED, MOST_COPIED = 1 << 18, 1 << 26  # bytes, of all threads together
COPIED = 1 << 25  # bytes of a round; all rounds take about a millisecond, threads start in less


def processors():
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine():
    """What a reader of the results wants to know of the machine."""
    return {"cpu": cpu(), "processors": processors(), "python": platform.python_version()}


def memory():
    """Bytes of this machine's memory; None if the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def cpu():
    """The name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measured(threads=None, touched=MOST_COPIED, seconds=0.2):
    """The best rates per second of so many threads at once.

    Args:
        threads: int; None takes one for each processor.
        touched: bytes that the kernels in question go through; what fits into a cache is copied
            faster.
        seconds: for each of the three rates.

    Returns:
        Dict of `flops` of multiply-adds in registers (of NumPy's matrix product where nothing is
        compiled), `exps` of NumPy's exp, `bytes` of a copy (read and written).

    Example:
        >>> sorted(measured(threads=1, seconds=0.01))
        ['bytes', 'exps', 'flops']
    """
    threads = threads or processors()
    rates = {}
    with ThreadPoolExecutor(threads) as pool:
        for kind, (make, amount) in _kernels(threads, touched).items():
            round_ = partial(_together, pool, [make() for _ in range(threads)])
            whole, own = zip(*_rounds(round_, seconds), strict=True)
            if kind == "bytes":  # which the threads share
                rates[kind] = threads * amount / min(whole)
            else:  # of each, so that a busy processor has to be free for a moment only
                rates[kind] = sum(amount / min(times) for times in zip(*own, strict=True))
    return rates


class Calibration:
    """Fixed work, timed beside each case, to compare runs of different machines.

    Arithmetic, exp and copying take about a third of it each. A short round on one thread is rarely
    interrupted, as a short call of a kernel is; a long one on all processors at once becomes slower
    on a busy machine, as a long call does.
    """

    def __init__(self):
        threads = processors()
        kernels = _kernels(threads, MOST_COPIED // 8)
        self.pool = ThreadPoolExecutor(threads)
        makers = [_product, *(kernels[kind][0] for kind in ("exps", "bytes"))]
        self.long = [partial(_each, [make() for make in makers]) for _ in range(threads)]
        few = slice(0, MATRICES // 16), slice(0, 1 << 15), slice(0, 1 << 18)
        left, values = np.ones((MATRICES, MATRIX, MATRIX), np.float32), np.ones(1 << 18, np.float32)
        pairs = [(x[part], np.empty_like(x[part])) for x, part in zip((left, values, values), few,
                                                                      strict=True)]  # fmt: skip
        functions = [lambda x, out: np.matmul(x, x, out=out), lambda x, out: np.exp(x, out=out)]
        functions.append(lambda x, out: np.copyto(out, x))
        self.short = partial(
            _each, [partial(f, *pair) for f, pair in zip(functions, pairs, strict=True)]
        )
        self.seconds()  # the first rounds are slower

    def seconds(self):
        """The median times of a short round and of a long one."""
        short = [_seconds_of(self.short) for _ in range(50)]
        long = [_together(self.pool, self.long)[0] for _ in range(3)]
        return float(np.median(short)), float(np.median(long))


def ideal(work, rates):
    """Seconds of an ideal kernel: of the arithmetic or of the memory traffic, whichever is longer.

    Args:
        work: dict of "flops", "exps" and "bytes", as far as they are known.
        rates: as `measured` returns them.

    Returns:
        float, None if nothing is known about the work.

    Example:
        >>> ideal({"flops": 4e9, "bytes": 1e9}, {"flops": 2e9, "exps": 1e9, "bytes": 1e9})
        2.0
    """
    memory = work.get("bytes", 0) / rates["bytes"]
    return max(arithmetic(work, rates) / rates["flops"], memory) or None


def arithmetic(work, rates):
    """Floating-point operations; one exp counts as those that could be done in its time."""
    return work.get("flops", 0) + work.get("exps", 0) * rates["flops"] / rates["exps"]


def _kernels(threads, touched):
    """For each kind of work, a maker of calls that do it, and how much of it a call does."""
    size = int(min(max(touched, LEAST_COPIED), MOST_COPIED)) // (8 * threads)  # float32, twice
    copies = max(COPIED // (8 * size * threads), 1)
    flops = (_product, 2 * MATRICES * MATRIX**3)
    if _core:
        flops = (_multiply_adds, _core.multiply_adds(MULTIPLY_ADDS))
    return {
        "flops": flops,
        "exps": (_exp, TIMES * EXPS),
        "bytes": (partial(_copy, size, copies), 8 * size * copies),
    }


def _multiply_adds():
    return partial(_core.multiply_adds, MULTIPLY_ADDS)


def _product():
    left = np.ones((MATRICES, MATRIX, MATRIX), np.float32)
    return partial(np.matmul, left, left, out=np.empty_like(left))


def _exp():
    values = np.linspace(-9, 0, EXPS, dtype=np.float32)
    return partial(_each, [partial(np.exp, values, out=np.empty_like(values))] * TIMES)


def _copy(size, times):
    source = np.ones(size, np.float32)
    return partial(_each, [partial(np.copyto, np.ones_like(source), source)] * times)


def _each(calls):
    for call in calls:
        call()


def _together(pool, calls):
    """The seconds until all threads are done, and those that each took."""
    start = time.perf_counter()
    own = [done.result() for done in [pool.submit(_seconds_of, call) for call in calls]]
    return time.perf_counter() - start, own


def _seconds_of(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _rounds(round_, seconds):
    """What at least three rounds return, and as many as fit into `seconds`."""
    found, end = [], time.perf_counter() + seconds
    while len(found) < 3 or time.perf_counter() < end:
        found.append(round_())
    return found
