"""The CUDA kernels of the CRF: CuPy arrays, orders of threads, and values that no host has checked.

The rest is in the tests of the domain, which run on all its engines.
"""

import sys

import numpy as np
import pytest

import fastkeras
from calls import FUNCTIONS, WITHOUT_TAGS, call, check
from every_function import calls, leaves
from fastkeras import crf

if fastkeras.engines("crf")["cupy"] != "ready":
    pytest.skip(fastkeras.engines("crf")["cupy"], allow_module_level=True)

import cupy

ON_CPU = "gpu.cupy_on_cpu" in sys.modules and cupy.__version__ == "on CPUs"
SHAPES = ((3, 70, 9), (2, 9, 33), (2, 6, 130))  # for up to 32 tags, up to 128, and more
SCALES = (1.0, 300.0)  # the second needs log space


def chain_of(shape, scale=1.0, dtype="float32"):
    rng = np.random.default_rng(0)
    batch, steps, num_tags = shape
    mask = rng.random((batch, steps)) < 0.8
    mask[0, 0] = False
    return {
        "emissions": (scale * rng.standard_normal(shape)).astype(dtype),
        "tags": rng.integers(0, num_tags, (batch, steps)).astype("int32"),
        "transitions": rng.standard_normal((num_tags, num_tags)).astype(dtype),
        "lengths": rng.integers(1, steps + 1, batch),
        "mask": mask,
        "start_transitions": rng.standard_normal(num_tags).astype(dtype),
        "end_transitions": rng.standard_normal(num_tags).astype(dtype),
    }


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_arrays_of_cupy_get_arrays_of_cupy(function, scale):
    chain = chain_of(SHAPES[0], scale)
    if function in WITHOUT_TAGS:
        del chain["tags"]
    on_device = {name: cupy.asarray(value) for name, value in chain.items()}
    results = leaves(getattr(crf, function)(**on_device))
    expected = leaves(getattr(crf, function)(**chain, engine="cupy"))
    for result, other in zip(results, expected, strict=True):
        assert isinstance(result, cupy.ndarray) and isinstance(other, np.ndarray)
        np.testing.assert_array_equal(cupy.asnumpy(result), other)


def test_samples_and_the_k_best_of_arrays_of_cupy():
    chain = chain_of(SHAPES[0])
    del chain["tags"]
    on_device = {name: cupy.asarray(value) for name, value in chain.items()}
    for result, other in zip(crf.k_best(**on_device, k=3), crf.k_best(**chain, k=3), strict=True):
        np.testing.assert_allclose(cupy.asnumpy(result), other, rtol=1e-6)
    samples = crf.sample(**on_device, num_samples=3, seed=5)
    assert isinstance(samples, cupy.ndarray)
    expected = crf.sample(**chain, num_samples=3, seed=5, engine="cupy")
    np.testing.assert_array_equal(cupy.asnumpy(samples), expected)


LACKS = ("weighted_log_likelihood", "entropy_and_gradients", "semi_markov.", "second_order.")
EVERY = [
    name
    for name in calls(np.asarray)
    if not name.startswith(LACKS) or name == "second_order.pair_chain"
]


@pytest.mark.parametrize("name", EVERY)
def test_every_function_takes_arrays_of_cupy(name):
    more = {"weights": None} if name == "smoothed_log_likelihood" else {}
    on_device, expected = (leaves(calls(array)[name](**more)) for array in (cupy.asarray, np.array))
    for result, other in zip(on_device, expected, strict=True):
        assert isinstance(result, cupy.ndarray)
        np.testing.assert_allclose(cupy.asnumpy(result), other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in calls(np.asarray) if name not in EVERY])
def test_what_has_no_kernel_for_gpus_says_so(name):
    with pytest.raises((ImportError, ValueError), match=r"does not take|has no engine for"):
        calls(cupy.asarray)[name]()


@pytest.mark.skipif(not ON_CPU, reason="a GPU has its own order")
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_order_of_threads_changes_a_bit(shape, scale, monkeypatch):
    from gpu import cupy_on_cpu

    chain = chain_of(shape, scale)
    expected = {function: call(function, chain, "cupy") for function in FUNCTIONS}
    for seed in (1, 2, 3):
        monkeypatch.setattr(cupy_on_cpu, "seed", seed)
        for function in FUNCTIONS:
            for result, other in zip(
                call(function, chain, "cupy"), expected[function], strict=True
            ):
                np.testing.assert_array_equal(result, other)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("wrong", (-1, 2**31 - 1))
def test_a_tag_that_is_none_makes_its_sequence_nan(shape, wrong):
    chain = chain_of(shape) | {"mask": None, "lengths": None}
    on_device = {n: value if value is None else cupy.asarray(value) for n, value in chain.items()}
    on_device["tags"][1, 2] = wrong
    for function in ("sequence_score", "log_likelihood"):
        value = cupy.asnumpy(getattr(crf, function)(**on_device))
        np.testing.assert_array_equal(np.isnan(value), np.arange(shape[0]) == 1)
    _, gradients = crf.log_likelihood_and_gradients(**on_device)
    d_emissions, d_transitions, *_ = map(cupy.asnumpy, gradients)
    assert np.isnan(d_transitions).all() and np.isnan(d_emissions[1]).all()
    assert np.isfinite(np.delete(d_emissions, 1, axis=0)).all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_path_that_both_sweeps_lose_is_not_lost(function):
    # Tag 1 is 110 nats behind at either end and gains 300 between, 30 per step. In both sweeps it
    # underflows to zero, while tag 0 looks sound; only the zeros in alpha show the loss.
    x = np.zeros((1, 12, 2), "float32")
    x[0, 1:11, 1] = 30
    x[0, [0, 11], 1] = -110
    chain = dict.fromkeys(("lengths", "mask", "start_transitions", "end_transitions"))
    apart = np.where(np.eye(2, dtype=bool), 0, -np.inf).astype("float32")
    check(
        function,
        {**chain, "emissions": x, "transitions": apart, "tags": np.zeros((1, 12), int)},
        "cupy",
    )


def test_lengths_are_taken_as_far_as_there_are_steps():
    chain = chain_of((3, 5, 4)) | {"mask": None}
    on_device = {n: value if value is None else cupy.asarray(value) for n, value in chain.items()}
    on_device["lengths"] = cupy.asarray(np.array([-3, 99, 2]))
    expected = call("log_likelihood", chain | {"lengths": np.array([0, 5, 2])}, "cupy")[0]
    np.testing.assert_array_equal(cupy.asnumpy(crf.log_likelihood(**on_device)), expected)


def test_what_the_engine_lacks_it_says():
    x, transitions = cupy.asarray(np.zeros((1, 3, 2))), cupy.asarray(np.zeros((2, 2, 2)))
    with pytest.raises(ImportError, match="cupy: does not take transitions that vary"):
        crf.log_partition(x, transitions)
    with pytest.raises(ValueError, match=r"crf\.semi_markov has no engine for cupy arrays"):
        crf.semi_markov.log_partition(x, x[0, :2], x[0, :2])


def test_numpy_arrays_stay_on_the_cpu_unless_cupy_is_named():
    x = np.zeros((1, 3, 2))
    assert isinstance(crf.log_partition(x, np.zeros((2, 2))), np.ndarray)
    assert "cupy" not in fastkeras._engines.AUTOMATIC["numpy"]


@pytest.mark.skipif(not ON_CPU, reason="of the stand-in")
def test_the_stand_in_is_as_strict_as_cupy():
    array = cupy.asarray(np.ones(3, "float32"))
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(array)
    with pytest.raises(TypeError, match="Unsupported type"):
        array + np.ones(3)
    with pytest.raises(TypeError, match=r"takes a cupy\.ndarray, got <class 'int'>"):
        cupy.broadcast_to(3, (2,))
