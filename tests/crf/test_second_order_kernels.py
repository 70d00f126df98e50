"""The C++ kernels of second-order chains: against the reference, and the same bits in all lanes."""

import subprocess
import sys

import numpy as np
import pytest

import fastkeras
from fastkeras import crf
from fastkeras.crf import second_order

if fastkeras.engines("crf.second_order")["native"] != "ready":
    pytest.skip(fastkeras.engines("crf.second_order")["native"], allow_module_level=True)

from fastkeras import _core
from fastkeras.crf._engines.native import LOG_LIKELIHOOD, LOG_PARTITION

INSTRUCTION_SETS = ("portable", "avx2", "avx512")
SCORES = ("emissions", "transitions", "start_transitions", "end_transitions", "triples")


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request):
    """Compute with each instruction set."""
    before = _core.instruction_set()
    try:
        _core.set_instruction_set(request.param)
    except ValueError:
        pytest.skip(f"no {request.param} here")
    yield request.param
    _core.set_instruction_set(before)
    _core.set_num_threads(0)


def chain_of(rng, shape, dtype="float64", scale=1.0, forbidden=0.0):
    """Return arguments, some of whose triples and transitions are forbidden."""
    batch, steps, num_tags = shape
    shapes = (shape, *((num_tags,) * axes for axes in (2, 1, 1, 3)))
    chain = {name: rng.standard_normal(s) for name, s in zip(SCORES, shapes, strict=True)}
    chain["emissions"] *= scale
    chain["triples"][rng.random((num_tags,) * 3) < forbidden] = -np.inf
    chain["transitions"][rng.random((num_tags,) * 2) < forbidden / 3] = -np.inf
    chain = {name: scores.astype(dtype) for name, scores in chain.items()}
    return {**chain, "lengths": rng.integers(0, steps + 1, batch)}


def widened(chain):
    return {n: v if n == "lengths" else v.astype("float64") for n, v in chain.items()}


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("forbidden", (0.0, 0.5))
@pytest.mark.parametrize("scale", (1.0, 40.0, 400.0))
def test_every_function_is_that_of_the_reference(instruction_set, scale, forbidden, dtype):
    rng = np.random.default_rng(int(scale))
    rounding = 20 * np.finfo(dtype).eps
    for shape in ((1, 1, 1), (1, 9, 3), (5, 12, 5), (19, 4, 4), (3, 21, 9)):
        _core.set_num_threads(int(rng.integers(1, 4)))
        chain = chain_of(rng, shape, dtype, scale, forbidden)
        tags = rng.integers(0, shape[2], shape[:2])
        for function in ("log_partition", "log_likelihood", "marginals", "viterbi"):
            call = getattr(second_order, function)
            more = {"tags": tags} if function == "log_likelihood" else {}
            found, exact = (
                call(**chain, **more, engine="native"),
                call(**widened(chain), **more, engine="reference"),
            )
            if function == "viterbi":  # two paths may be as good
                own = second_order.sequence_score(tags=found[0], **chain, engine="native")
                possible = np.isfinite(found[1])
                np.testing.assert_array_equal(own[possible], found[1][possible])
                found, exact = found[1:], exact[1:]
            if isinstance(found, np.ndarray):
                found, exact = (found,), (exact,)
            for result, expected in zip(found, exact, strict=True):
                allowed = rounding * (1 + scale) * shape[1]
                np.testing.assert_allclose(result, expected, rtol=rounding, atol=allowed)


@pytest.mark.parametrize("quantity", (LOG_PARTITION, LOG_LIKELIHOOD))
def test_gradients_are_differences_of_fourth_order(instruction_set, quantity):
    rng = np.random.default_rng(quantity)
    for shape, forbidden in (((3, 20, 3), 0.0), ((7, 6, 4), 0.4)):
        chain = chain_of(rng, shape, forbidden=forbidden)
        tags = rng.integers(0, shape[2], shape[:2])
        weights = rng.standard_normal(shape[0])
        weights[0] = 0

        def value(chain=chain, tags=tags, weights=weights):
            more = {"tags": tags} if quantity == LOG_LIKELIHOOD else {}
            name = "log_likelihood" if more else "log_partition"
            values = getattr(second_order, name)(**chain, **more, engine="reference")
            return weights @ np.where(np.isneginf(values), 0, values)

        gradients = gradients_of(chain, tags, weights, quantity)
        for name, gradient in zip(SCORES, gradients, strict=True):
            scores = chain[name]
            for at in rng.integers(0, scores.size, 5):
                if not np.isfinite(scores.flat[at]):
                    assert gradient.flat[at] == 0
                    continue
                around, h, here = [], 1e-3, scores.flat[at]
                for step in (-2, -1, 1, 2):
                    scores.flat[at] = here + step * h
                    around.append(value())
                scores.flat[at] = here
                difference = (around[0] - 8 * around[1] + 8 * around[2] - around[3]) / (12 * h)
                np.testing.assert_allclose(gradient.flat[at], difference, rtol=1e-8, atol=1e-8)


def gradients_of(chain, tags, weights, quantity=LOG_PARTITION):
    """Return the gradients in the order of `SCORES`."""
    lengths, tags = chain["lengths"].astype("int32"), tags.astype("int32")
    scores = [chain[name] for name in SCORES]
    inputs = (*scores[:2], lengths, None, *scores[2:], tags)
    value, workspace = _core.second_order_value(*inputs, quantity, True)
    return _core.second_order_gradient(*inputs, value, workspace, weights, quantity)


@pytest.mark.parametrize("shape", ((5, 30, 9), (33, 20, 5), (8, 25, 16)), ids=str)
def test_bits_depend_neither_on_threads_nor_on_lanes(instruction_set, shape):
    rng = np.random.default_rng(0)
    chain = chain_of(rng, shape, "float32", 3.0, forbidden=0.2)
    tags, weights = rng.integers(0, shape[2], shape[:2]), np.ones(shape[0], "float32")
    results = []
    for threads in (1, 2, 8, 32):
        _core.set_num_threads(threads)
        decoded = second_order.viterbi(**chain, engine="native")
        marginals = second_order.marginals(**chain, engine="native")
        results.append((*gradients_of(chain, tags, weights), *marginals, *decoded))
    for others in results[1:]:
        for result, other in zip(results[0], others, strict=True):
            np.testing.assert_array_equal(result, other)


@pytest.mark.parametrize("name", SCORES)
def test_what_is_not_a_number_spoils_the_sequences_that_use_it(instruction_set, name):
    for spoil in (np.nan, np.inf):
        chain = chain_of(np.random.default_rng(1), (6, 5, 3), "float32")
        chain["lengths"] = np.array([5, 1, 2, 0, 3, 5])
        chain[name].flat[0] = spoil  # of the emissions, it is the first sequence's
        spoiled = chain["lengths"] >= {"transitions": 2, "triples": 3}.get(name, 1)
        if name == "emissions":
            spoiled[1:] = False
        log_z = second_order.log_partition(**chain, engine="native")
        np.testing.assert_array_equal(np.isnan(log_z), spoiled)
        unary, counts = second_order.marginals(**chain, engine="native")
        np.testing.assert_array_equal(np.isnan(unary).any(axis=(1, 2)), spoiled)
        np.testing.assert_array_equal(
            np.isnan(counts).any(axis=(1, 2)), spoiled & (chain["lengths"] > 1)
        )
        tags, score = second_order.viterbi(**chain, engine="native")
        np.testing.assert_array_equal(np.isfinite(score), ~spoiled)
        assert ((tags >= 0) & (tags < 3)).all()
        weights = np.where(spoiled, 0, 1).astype("float32")  # 0 times NaN would be NaN
        gradients = gradients_of(chain, np.zeros((6, 5)), weights)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_paths_that_survive_because_others_are_forbidden_keep_their_digits(instruction_set):
    forbidden = -1e4  # from 0 only to 0, and the rest lies 200 below it, until 0 is forbidden
    chain = {
        "emissions": np.tile(np.array([0.0, -100.0, -103.0]), (2, 12, 1)),
        "transitions": np.array([[0.0, forbidden, -np.inf], [forbidden, 0, 1], [-np.inf, 0, 0]]),
        "triples": np.random.default_rng(3).standard_normal((3, 3, 3)),
    }
    chain["emissions"][:, -1, 0] = -np.inf
    chain["triples"][1, 2, 1] = -np.inf
    exact = second_order.log_partition(**chain, engine="reference")
    single = {name: scores.astype("float32") for name, scores in chain.items()}
    np.testing.assert_allclose(second_order.log_partition(**chain, engine="native"), exact)
    found = second_order.log_partition(**single, engine="native")
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    for given, allowed in ((chain, 1e-12), (single, 1e-5)):
        results = second_order.marginals(**given, engine="native")
        expected = second_order.marginals(**chain, engine="reference")
        for result, p in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, p, rtol=0, atol=allowed)


def test_memory_for_triples_does_not_grow_with_the_batch():
    """A cube of the tags for each of a few blocks of sequences, in a process of its own."""
    code = """
import resource
import numpy as np
from fastkeras import _core
batch, steps, num_tags = 2048, 3, 32
ends = [np.zeros(num_tags, "float32")] * 2
x, triples = np.zeros((batch, steps, num_tags), "float32"), np.zeros((num_tags,) * 3, "float32")
lengths, tags = np.full(batch, steps, "int32"), np.zeros((batch, steps), "int32")
inputs = x, triples[0], lengths, None, *ends, triples, tags
value, workspace = _core.second_order_value(*inputs, 0, True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
gradients = _core.second_order_gradient(*inputs, value, workspace, np.ones(batch, "float32"), 0)
np.testing.assert_allclose(gradients[-1], batch / num_tags**3, rtol=100 * np.finfo('float32').eps)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) * 1024 < 2048 * 32**3 * 4 / 3  # a third of a cube for each sequence


def test_forbidden_triples_cost_nothing():
    """As many as BIOES rules leave, of 13 tags."""
    tags = ["O", *(f"{letter}-{n}" for n in range(3) for letter in "BIES")]
    rules = crf.constraints.allowed("BIOES", tags)
    chain = chain_of(np.random.default_rng(0), (2, 6, 13))
    full = {**chain, **rules.apply(*(chain[name] for name in SCORES[1:4]))}
    given = (
        second_order.log_partition(**chain, constraints=rules, engine="native"),
        second_order.log_partition(**full, engine="native"),
        second_order.log_partition(**full, engine="reference"),
    )
    np.testing.assert_array_equal(given[0], given[1])
    np.testing.assert_allclose(given[0], given[2], rtol=1e-13)
