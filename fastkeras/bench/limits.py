"""The best rates of this machine, measured in the same run as the times compared with them."""

import time

import numpy as np


def fastest(call, seconds=0.2):
    """The shortest time of a call, of as many calls as fit into `seconds`."""
    best, end = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def measured(seconds=0.2):
    """Rates per second: `flops` of NumPy's matrix product, `exps` of its exp, `bytes` of a copy.

    Example:
        >>> sorted(measured(0.01))
        ['bytes', 'exps', 'flops']
    """
    left = np.ones((512, 512), np.float32)
    product, values = np.empty_like(left), np.linspace(-9, 0, 1 << 14, dtype=np.float32)
    powers = np.empty_like(values)
    source = np.ones(1 << 24, np.float32)  # 64 MiB, more than a cache holds
    target = np.ones_like(source)
    return {
        "flops": 2 * 512**3 / fastest(lambda: np.matmul(left, left, out=product), seconds),
        "exps": values.size / fastest(lambda: np.exp(values, out=powers), seconds),
        "bytes": 2 * source.nbytes / fastest(lambda: np.copyto(target, source), seconds),
    }


def ideal(work, rates):
    """Seconds of a kernel that does this work at these rates, one kind after another; or None."""
    return sum(amount / rates[kind] for kind, amount in work.items()) or None
