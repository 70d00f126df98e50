"""The entropy's gradient: every engine that has it against the reference in a wider dtype."""

import numpy as np
import pytest

from accuracy import WIDER, assert_as_accurate_as_reference
from calls import largest_score
from engine_parameters import engines_of
from fastkeras import crf
from fastkeras.crf._engines import reference
from fastkeras.crf.arguments import chain_of

NAMES = ("value", "emissions", "transitions", "start_transitions", "end_transitions")
NATIVE = ("native", "tensorflow_native", "torch_native", "jax_native")
ENGINES = [engine for engine in engines_of("crf") if engine.values[0] in NATIVE]


def chain(rng, batch, steps, num_tags, dtype="float64", spread=1.0, forbidden=(), varying=False):
    """A batch with holes in its mask, one sequence without any step, and scores of every kind."""
    into = (batch, steps - 1) if varying else ()
    scores = {
        "emissions": spread * rng.standard_normal((batch, steps, num_tags)),
        "transitions": rng.standard_normal((*into, num_tags, num_tags)),
        "start_transitions": rng.standard_normal(num_tags),
        "end_transitions": rng.standard_normal(num_tags),
    }
    for i, j in forbidden:
        scores["transitions"][..., i, j] = -np.inf
    mask = rng.random((batch, steps)) < 0.8
    mask[-1] = False
    return {name: value.astype(dtype) for name, value in scores.items()} | {"mask": mask}


def of_reference(given, weights, dtype):
    """The reference's results in a dtype that the public functions do not take."""
    scores = chain_of(**given).with_scores(lambda scores: scores.astype(dtype))
    value, gradients = reference.entropy_and_gradients(scores, weights.astype(dtype))
    return value, *gradients


def check(given, weights, engine):
    """Assert that value and gradients of an engine are as accurate as those of the reference."""
    value, gradients = crf.entropy_and_gradients(**given, weights=weights, engine=engine)
    check_results((value, *gradients), given, weights)


def check_results(results, given, weights):
    """Assert that the value and the gradients are as accurate as those of the reference."""
    dtype = given["emissions"].dtype.name
    exact, rounded = (of_reference(given, weights, d) for d in (WIDER[dtype], dtype))
    steps = given["mask"].sum()
    tags = np.zeros(given["mask"].shape, int)
    scale = largest_score({**given, "tags": tags})
    for name, *arrays in zip(NAMES, results, exact, rounded, strict=True):
        assert_as_accurate_as_reference(*map(np.asarray, arrays), scale, scale * steps), name


SHAPES = {"a vector": (9, 40, 5), "a full vector": (3, 70, 16), "panels": (5, 33, 41)}
FORBIDDEN = ((0, 1), (2, 3), (3, 3), (4, 0))


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("spread", (1.0, 30.0, 300.0))
@pytest.mark.parametrize("shape", SHAPES)
def test_as_accurate_as_the_reference(shape, spread, dtype, rng):
    """At a spread of 300 nats most tags have no mass in float32."""
    pytest.importorskip("fastkeras._core")
    given = chain(rng, *SHAPES[shape], dtype, spread, FORBIDDEN)
    weights = rng.standard_normal(len(given["mask"])).astype(dtype)
    weights[0] = 0
    check(given, weights, "native")


@pytest.mark.parametrize("varying", (False, True))
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_has_it(engine, varying, rng):
    given = chain(rng, 3, 6, 3, "float32", forbidden=FORBIDDEN[:1], varying=varying)
    check(given, np.array([0.5, -2, 1], "float32"), engine)


@pytest.mark.parametrize("name", ("portable", "avx2", "avx512"))
def test_every_instruction_set_is_as_accurate(name, rng):
    _core = pytest.importorskip("fastkeras._core")
    before = _core.instruction_set()
    try:
        _core.set_instruction_set(name)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        check(chain(rng, 4, 40, 21, forbidden=FORBIDDEN), rng.standard_normal(4), "native")
    finally:
        _core.set_instruction_set(before)


def test_bits_do_not_depend_on_the_number_of_threads(rng):
    _core = pytest.importorskip("fastkeras._core")
    given = chain_of(**chain(rng, 40, 300, 9, "float32", forbidden=FORBIDDEN))
    results = []
    for threads in (1, 2, 5):
        value, workspace = _core.crf_entropy(*given, True, threads)
        rest = value, workspace, np.ones_like(value)
        results.append((value, *_core.crf_entropy_gradient(*given, *rest, threads)))
    for other in results[1:]:
        for one, first in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(one, first)


@pytest.mark.parametrize("num_tags", (5, 21))
def test_long_chains_keep_their_digits(num_tags, rng):
    pytest.importorskip("fastkeras._core")
    given = chain(rng, 3, 3000, num_tags, "float32")
    check(given, np.ones(3, "float32"), "native")


@pytest.mark.parametrize("engine", ("native", "reference"))
@pytest.mark.parametrize("varying", (False, True))
def test_a_nan_stays_in_its_sequence_and_an_impossible_one_has_no_gradient(varying, engine, rng):
    if engine == "native":
        pytest.importorskip("fastkeras._core")
    given = chain(rng, 5, 8, 3, varying=varying)
    given["mask"][:4] = True
    given["emissions"][1, 3, 0], given["emissions"][2, 5] = np.nan, -np.inf
    value, gradients = crf.entropy_and_gradients(**given, engine=engine)
    np.testing.assert_array_equal(np.isnan(value), np.arange(5) == 1)
    assert np.isnan(gradients.emissions[1]).all() and not gradients.emissions[2].any()
    assert np.isfinite(gradients.emissions[[0, 2, 3, 4]]).all()
    assert np.isnan(gradients.start_transitions).all()
    of_others = np.array([1.0, 0, 1, 1, 1])
    _, gradients = crf.entropy_and_gradients(**given, weights=of_others, engine=engine)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("jit_compile", (False, True))
def test_a_tape_finds_the_gradient_of_the_keras_engine(jit_compile, rng):
    tf = pytest.importorskip("tensorflow")
    given = chain(rng, 3, 9, 4, forbidden=FORBIDDEN[:2])
    weights = np.array([1.0, -2.0, 0.5])

    def value_and_gradients(scores, engine):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = crf.entropy(**scores, mask=given["mask"], engine=engine)
            total = tf.reduce_sum(value * weights)
        return value, tape.gradient(total, scores)

    scores = {name: tf.constant(given[name]) for name in NAMES[1:]}
    ours = tf.function(value_and_gradients, jit_compile=jit_compile)(scores, None)
    for value, gradients in (ours, value_and_gradients(scores, "keras")):
        check_results((value, *(gradients[name] for name in NAMES[1:])), given, weights)


def test_an_engine_without_it_says_so():
    with pytest.raises(ValueError, match="does not take the gradient of an entropy"):
        crf.entropy_and_gradients(np.zeros((1, 2, 3)), np.zeros((3, 3)), engine="numba")
