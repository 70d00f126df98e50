"""For the tests of all domains: a seeded generator, settings of hypothesis, CUDA on CPUs."""

import os
import zlib
from contextlib import suppress
from importlib.util import find_spec

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import numpy as np
import pytest

from gpu import cupy_on_cpu

cupy_on_cpu.install()  # so that the `cupy` engines are tested on machines without a GPU

with suppress(ImportError):  # not compiled
    from fastkeras import _core

    _core.set_worth_a_thread(0)  # so that several threads share even the small problems of tests

if os.environ.get("KERAS_BACKEND") == "jax":
    with suppress(ImportError):
        from ctypes import c_double

        from fastkeras._ops.jax import function_of

        function_of("fastkeras_set_worth_a_thread", None, c_double)(0)

ON_CI = "CI" in os.environ  # always the same examples, so that only changes can cause failures
hypothesis.settings.register_profile(
    "fastkeras",
    max_examples=20 if ON_CI else 40,
    deadline=None,
    print_blob=True,
    derandomize=ON_CI,
    phases=[phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain],
)
hypothesis.settings.load_profile("fastkeras")


def pytest_runtest_setup(item):
    """Seed the `RNG` of a test's file, and Keras, for each test.

    So a test gets the same numbers and initial weights in any order of tests and in any process.
    """
    of_file = getattr(getattr(item, "function", None), "__globals__", {})
    if isinstance(of_file.get("RNG"), np.random.Generator):
        seed = zlib.crc32(item.name.encode())
        if find_spec("keras"):
            import keras

            keras.utils.set_random_seed(seed)
        of_file["RNG"] = np.random.default_rng(seed)


@pytest.fixture
def rng(request):
    """A generator whose seed is the name of the test."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))
