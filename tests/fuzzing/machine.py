"""Correct calls of the doors that say how kernels run."""

import numpy as np

from fastkeras import _core
from fuzzing import crf


def settings(rng):
    def set_and_compute(name, num_threads, worth):
        try:
            _core.set_worth_a_thread(worth)
            _core.set_num_threads(num_threads)
            _core.set_instruction_set(name)
            function, chain = crf.CALLS["crf_viterbi"](np.random.default_rng(0))
            return function(**chain)
        finally:
            _core.set_num_threads(2)
            _core.set_worth_a_thread(0)

    names = ("portable", "avx2", "avx512", "mmx")
    return set_and_compute, {
        "name": str(rng.choice(names)),
        "num_threads": int(rng.integers(4)),
        "worth": float(rng.choice((0, 1e5))),
    }


def multiply_adds(rng):
    return _core.multiply_adds, {"times": int(rng.integers(1000))}


CALLS = {"set_num_threads": settings, "multiply_adds": multiply_adds}
