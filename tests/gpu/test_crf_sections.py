"""The CUDA kernels of the CRF on long chains, whose sections are swept at the same time."""

import sys

import numpy as np
import pytest

import fastkeras
from calls import FUNCTIONS, call, check
from fastkeras import crf

if fastkeras.engines("crf")["cupy"] != "ready":
    pytest.skip(fastkeras.engines("crf")["cupy"], allow_module_level=True)

import cupy

from fastkeras._ops import cupy as device
from fastkeras.crf._engines.cupy import host

ON_CPU = "gpu.cupy_on_cpu" in sys.modules and cupy.__version__ == "on CPUs"
OF_SECTION = 5
LENGTHS = (0, 1, 4, 5, 6, 10, 11, 15, 16, 23)  # with and without a section that is not full
WITH_SECTIONS = ("log_partition", "log_likelihood", "log_likelihood_and_gradients", "marginals")


@pytest.fixture(autouse=True)
def short_sections(monkeypatch):
    monkeypatch.setattr(host, "steps_of_section", lambda batch, steps, num_tags: OF_SECTION)


def chain_of(num_tags, scale=1.0, dtype="float32", forbidden=0.0, masked=True, seed=0):
    rng = np.random.default_rng(seed)
    batch, steps = len(LENGTHS), max(LENGTHS)
    transitions = rng.standard_normal((num_tags, num_tags))
    transitions[rng.random(transitions.shape) < forbidden] = -np.inf
    np.fill_diagonal(transitions, 0)  # so that some path is possible
    emissions = scale * rng.standard_normal((batch, steps, num_tags))
    emissions[rng.random(emissions.shape) < forbidden / 4] = -np.inf
    return {
        "emissions": emissions.astype(dtype),
        "tags": np.zeros((batch, steps), "int32"),
        "transitions": transitions.astype(dtype),
        "lengths": np.array(LENGTHS),
        "mask": rng.random((batch, steps)) < 0.8 if masked else None,
        "start_transitions": rng.standard_normal(num_tags).astype(dtype),
        "end_transitions": rng.standard_normal(num_tags).astype(dtype),
    }


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("masked", (False, True), ids=("lengths", "mask"))
@pytest.mark.parametrize("scale", (0.1, 1.0, 10.0, 100.0, 1000.0))
@pytest.mark.parametrize("num_tags", (1, 3, 32))
def test_sections_are_as_accurate_as_whole_chains(num_tags, scale, masked, dtype):
    chain = chain_of(num_tags, scale, dtype, masked=masked)
    for function in WITH_SECTIONS:
        check(function, chain, "cupy")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", (1.0, 30.0))
def test_sections_with_forbidden_tags_and_transitions(scale, seed):
    chain = chain_of(6, scale, forbidden=0.6, seed=seed)
    for function in FUNCTIONS:
        check(function, chain, "cupy")


@pytest.mark.parametrize("turn", range(1, 16))
@pytest.mark.parametrize("function", WITH_SECTIONS)
def test_a_path_that_is_lost_within_a_section_is_not_lost(function, turn):
    # Tag 1 falls behind by 60 nats a step, for two steps, and catches up again within the next
    # four: it underflows, wherever that is in a section, in products and sweeps.
    x = np.zeros((1, 23, 2), "float32")
    x[0, turn : turn + 2, 1] = -60
    x[0, turn + 2 : turn + 6, 1] = 40
    apart = np.where(np.eye(2, dtype=bool), 0, -np.inf).astype("float32")
    chain = {"emissions": x, "transitions": apart, "tags": np.zeros((1, 23), "int32")}
    chain |= dict.fromkeys(("lengths", "mask", "start_transitions", "end_transitions"))
    check(function, chain, "cupy")


@pytest.fixture
def marks(monkeypatch):
    """The states of sequences, which say whether they are computed again in log space."""
    states = []

    def launch(kernels, name, blocks, threads, *arguments):
        if name == "exact":
            states.extend(cupy.asnumpy(arguments[-2]))
        return on_device(kernels, name, blocks, threads, *arguments)

    on_device = device.launch
    monkeypatch.setattr(device, "launch", launch)
    return states


@pytest.mark.parametrize("function", WITH_SECTIONS)
def test_rows_of_a_product_may_be_far_apart(function, marks):
    # Tag 1 loses 50 nats a step and cannot go back to tag 0, which enters it at every step: so the
    # rows of a product are 250 nats apart, more than the type holds, but alpha is within 50.
    x = np.zeros((1, 23, 2), "float32")
    x[..., 1] = -50
    transitions = np.array([[0, 0], [-np.inf, 0]], "float32")
    chain = {"emissions": x, "transitions": transitions, "tags": np.ones((1, 23), "int32")}
    chain |= dict.fromkeys(("lengths", "mask", "start_transitions", "end_transitions"))
    check(function, chain, "cupy")
    assert marks == [0]


@pytest.mark.parametrize("function", WITH_SECTIONS)
def test_a_row_of_a_product_may_be_zero(function, marks):
    # Tag 0 ends where a section begins, so its row is zero; for tag 2 alpha is zero. But it has the
    # peaks of emissions, so that the row of tag 1, the only one that counts, falls by 150 nats.
    x = np.zeros((1, 23, 3), "float32")
    x[0, OF_SECTION:, 0] = -np.inf
    x[0, OF_SECTION : 2 * OF_SECTION, 2] = 30
    transitions = np.where(np.eye(3, dtype=bool), 0, -np.inf).astype("float32")
    ends = np.array([0, 0, -np.inf], "float32")
    chain = {"emissions": x, "transitions": transitions, "tags": np.ones((1, 23), "int32")}
    chain |= {"start_transitions": ends, "end_transitions": ends, "lengths": None, "mask": None}
    check(function, chain, "cupy")
    assert marks == [0]


@pytest.mark.parametrize("masked", (False, True), ids=("lengths", "mask"))
def test_scores_of_long_paths(masked):
    rng = np.random.default_rng(0)
    chain = chain_of(3) | {
        "emissions": rng.standard_normal((2, 4200, 3)).astype("float32"),
        "tags": rng.integers(0, 3, (2, 4200)).astype("int32"),
        "lengths": np.array([4200, 900]),
        "mask": rng.random((2, 4200)) < 0.8 if masked else None,
    }
    check("sequence_score", chain, "cupy")


def test_samples_are_those_of_whole_chains(monkeypatch):
    chain = chain_of(6)
    del chain["tags"]
    samples = crf.sample(**chain, num_samples=9, seed=3, engine="cupy")
    monkeypatch.setattr(host, "steps_of_section", lambda batch, steps, num_tags: steps)
    expected = crf.sample(**chain, num_samples=9, seed=3, engine="cupy")
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.skipif(not ON_CPU, reason="a GPU has its own order")
@pytest.mark.parametrize("scale", (1.0, 100.0))
def test_no_order_of_threads_changes_a_bit(scale, monkeypatch):
    from gpu import cupy_on_cpu

    chain = chain_of(9, scale)
    expected = {function: call(function, chain, "cupy") for function in WITH_SECTIONS}
    for seed in (1, 2, 3):
        monkeypatch.setattr(cupy_on_cpu, "seed", seed)
        for function in WITH_SECTIONS:
            for result, other in zip(
                call(function, chain, "cupy"), expected[function], strict=True
            ):
                np.testing.assert_array_equal(result, other)


def test_long_chains_are_cut_where_it_pays(monkeypatch):
    monkeypatch.undo()
    assert host.steps_of_section(1, 1024, 9) == 128
    assert host.steps_of_section(1, 65_536, 32) == 256
    for shape in ((1, 1023, 9), (64, 1024, 9), (1, 65_536, 33)):
        assert host.steps_of_section(*shape) == shape[1]
    rng = np.random.default_rng(0)
    chain = {
        "emissions": rng.standard_normal((1, 1100, 3)).astype("float32"),
        "transitions": rng.standard_normal((3, 3)).astype("float32"),
        "tags": rng.integers(0, 3, (1, 1100)).astype("int32"),
    }
    chain |= dict.fromkeys(("lengths", "mask", "start_transitions", "end_transitions"))
    for function in WITH_SECTIONS:
        check(function, chain, "cupy")
