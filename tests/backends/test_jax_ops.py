"""The engine `jax_native`: calls of XLA that JAX's transformations and compiler take."""

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the calls are of JAX")
if __import__("keras").backend.backend() != "jax":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

import jax.numpy as jnp  # noqa: E402

import fastkeras  # noqa: E402
import fastkeras.crf.semi_markov._engines.jax_native  # noqa: E402  (what it calls is registered)
from fastkeras import _arrays, _build, _engines, crf  # noqa: E402
from fastkeras._ops import jax as jax_ops  # noqa: E402
from fastkeras.crf import semi_markov  # noqa: E402
from fastkeras.crf._engines import jax_native  # noqa: E402
from fastkeras.crf.arguments import chain_of  # noqa: E402

BATCH, STEPS, NUM_TAGS = 3, 6, 4
SHAPES = ((BATCH, STEPS, NUM_TAGS), (NUM_TAGS, NUM_TAGS), (NUM_TAGS,), (NUM_TAGS,))
LENGTHS = np.array([6, 3, 0])
SUM_BY_SCORES = (0, 1, 2, 3)


@pytest.fixture
def scores(rng):
    return tuple(jnp.asarray(rng.normal(size=shape), "float32") for shape in SHAPES)


@pytest.fixture
def tags(rng):
    return jnp.asarray(rng.integers(0, NUM_TAGS, (BATCH, STEPS)), "int32")


def likelihood(tags, engine=None, mask=None):
    def function(x, a, start, end):
        lengths = LENGTHS if mask is None else None
        more = {"start_transitions": start, "end_transitions": end, "engine": engine}
        return crf.log_likelihood(x, tags, a, lengths, mask=mask, **more)

    return function


def total(tags, engine=None, mask=None):
    function = likelihood(tags, engine, mask)
    return lambda *scores: function(*scores).sum()


def value_and_gradients(tags, engine=None, mask=None):
    return jax.value_and_grad(total(tags, engine, mask), argnums=SUM_BY_SCORES)


def assert_close(results, expected, tolerance=1e-5):
    for ours, exact in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == exact.dtype
        np.testing.assert_allclose(ours, exact, rtol=tolerance, atol=tolerance)


def assert_same(results, expected):
    for ours, exact in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, exact)


def answering(array):
    return _engines.engine_for("crf", array).__name__.rpartition(".")[2]


def test_the_engine_is_ready():
    assert fastkeras.engines("crf")["jax_native"] == "ready"


def test_the_kernels_answer_arrays_on_the_cpu_and_no_others(monkeypatch):
    on_cpu = jax.device_put(jnp.zeros(1), jax.devices("cpu")[0])
    seen = []
    jax.jit(lambda x: seen.append(answering(x)))(on_cpu)
    assert [answering(on_cpu), answering(jnp.zeros(1)), *seen] == ["jax_native"] * 3
    anywhere = jnp.zeros(1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.jit(lambda x: seen.append(answering(x) + " "))(on_cpu)
    assert seen.pop() == "keras "
    assert [answering(on_cpu), answering(anywhere)] == ["jax_native", "keras"]


def test_an_array_of_another_device_has_a_family_of_its_own(monkeypatch):
    class Device:
        platform = "gpu"

    monkeypatch.setattr(type(jnp.zeros(1)), "devices", lambda array: {Device()})
    array = jnp.zeros(1)
    assert _arrays.family_of(array) == "jax_elsewhere"
    assert _arrays.has_values(array)
    assert answering(array) == "keras"
    with pytest.raises(ValueError, match="does not take a jax_elsewhere array"):
        _engines.engine_for("crf", array, "jax_native")


@pytest.mark.parametrize("masked", (False, True))
def test_value_and_gradient_are_those_of_the_keras_engine(scores, tags, rng, masked):
    mask = rng.random((BATCH, STEPS)) < 0.6 if masked else None
    expected = value_and_gradients(tags, "keras", mask)(*scores)
    ours = value_and_gradients(tags, "jax_native", mask)
    assert_close(ours(*scores), expected)
    assert_same(jax.jit(ours)(*scores), ours(*scores))


def test_weights_of_steps_and_their_gradients_are_those_of_the_keras_engine(scores, tags, rng):
    weights = jnp.asarray(rng.random((BATCH, STEPS)), "float32")

    def total(engine):
        def function(x, a, start, end, weights):
            chain = {"start_transitions": start, "end_transitions": end, "engine": engine}
            of = crf.weighted_log_likelihood(x, tags, a, LENGTHS, weights=weights, **chain)
            return of.sum()

        return jax.value_and_grad(function, argnums=(0, 1, 2, 3, 4))

    ours, inputs = total("jax_native"), (*scores, weights)
    found = jax.jit(ours)(*inputs)
    assert_close(found, total("keras")(*inputs))
    assert_same(found, ours(*inputs))
    stacked = jax.tree.map(lambda array: jnp.stack([array, 2 * array]), inputs)
    each = [ours(*jax.tree.map(lambda array, i=i: array[i], stacked)) for i in range(2)]
    assert_same(jax.vmap(ours)(*stacked), jax.tree.map(lambda *parts: jnp.stack(parts), *each))


def test_the_gradient_of_the_entropy_is_that_of_the_keras_engine(scores):
    def total(engine):
        def function(x, a, start, end):
            ends = {"start_transitions": start, "end_transitions": end}
            return crf.entropy(x, a, LENGTHS, **ends, engine=engine) @ jnp.array([1, -2, 0.5])

        return jax.value_and_grad(function, argnums=SUM_BY_SCORES)

    found = jax.jit(total("jax_native"))(*scores)
    assert_close(found, total("keras")(*scores))
    assert_same(found, total("jax_native")(*scores))
    x, a, start, end = scores
    _, gradients = crf.entropy_and_gradients(
        *(x, a, LENGTHS),
        start_transitions=start,
        end_transitions=end,
        weights=jnp.array([1, -2, 0.5]),
    )
    assert_same(tuple(gradients), found[1])


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_numpy_arrays_get_numpy_arrays_of_their_dtype(scores, tags, dtype):
    x, a, start, end = (np.asarray(score, dtype) for score in scores)
    weights = np.array([1, -2, 0.5], dtype)
    more = {"lengths": LENGTHS, "start_transitions": start, "end_transitions": end}
    calls = (
        (crf.log_partition, (x, a)),
        (crf.sequence_score, (x, np.asarray(tags), a)),
        (crf.log_likelihood, (x, np.asarray(tags), a)),
        (crf.marginals, (x, a)),
        (crf.viterbi, (x, a)),
    )
    for function, arguments in calls:
        results = function(*arguments, **more, engine="jax_native")
        assert_close(results, function(*arguments, **more, engine="reference"))
    results = crf.log_likelihood_and_gradients(
        x, np.asarray(tags), a, **more, weights=weights, engine="jax_native"
    )
    for result in jax.tree.leaves(results):
        assert type(result) is np.ndarray
        assert result.dtype == dtype
        assert result.flags.writeable


def test_float64_with_x64(scores, tags):
    with jax_ops.enable_x64(True):
        wide = [jnp.asarray(score, "float64") for score in scores]
        value, gradients = jax.jit(value_and_gradients(tags, "jax_native"))(*wide)
        expected = value_and_gradients(tags, "keras")(*wide)
        assert value.dtype == gradients[1].dtype == "float64"
        assert_close((value, gradients), expected, 1e-12)


def test_what_decodes_in_a_loss_does_not_stop_its_gradient(scores, tags):
    def loss(x, a, *more):
        decoded, score = crf.viterbi(x, a)
        return total(tags)(x, a, *more), (decoded, score, crf.marginals(x, a))

    for transform in (lambda function: function, jax.jit):
        gradient, _ = transform(jax.grad(loss, has_aux=True))(*scores)
        assert_close(gradient, jax.grad(total(tags))(*scores), 0)


def test_what_has_no_derivative_says_what_has_one(scores, tags):
    x, a = scores[:2]
    ours = total(tags, "jax_native")
    refused = {
        "the score of viterbi: take the sequence_score": jax.grad(
            lambda x: crf.viterbi(x, a)[1].sum()
        ),
        "marginals: engine='keras' can": jax.grad(lambda x: crf.marginals(x, a)[0][0, 0, 0]),
        "the gradient of a CRF: engine='keras' can": jax.grad(
            lambda x: (jax.grad(ours)(x, *scores[1:]) ** 2).sum()
        ),
    }
    for words, function in refused.items():
        for transform in (lambda function: function, jax.jit):
            with pytest.raises(NotImplementedError, match=words):
                transform(function)(x)

    def value(x):
        return ours(x, *scores[1:])

    for forward in (lambda x: jax.jvp(value, (x,), (x,)), jax.hessian(value)):
        with pytest.raises(NotImplementedError, match="engine='keras' has those of derivatives"):
            forward(x)


@pytest.mark.parametrize("wrong", (NUM_TAGS, -1))
def test_a_tag_out_of_range_is_an_error(scores, tags, wrong):
    tags = tags.at[0, 2].set(wrong)
    with pytest.raises(ValueError, match=r"tags must be in 0\.\.3"):
        likelihood(tags)(*scores)
    with pytest.raises(Exception, match=r"tags must be in 0\.\.3"):
        jax.block_until_ready(jax.jit(lambda tags: likelihood(tags)(*scores))(tags))


@pytest.mark.parametrize("engine", ("jax_native", "keras"))
def test_constants_of_a_compiled_function_are_checked_as_it_is_traced(scores, tags, engine):
    x, a = scores[:2]
    lengths = jnp.asarray(LENGTHS, "int32")
    mask, wrong = jnp.arange(STEPS) < lengths[:, None], tags.at[1, 2].set(9)

    def value(x, tags, **more):
        return crf.log_likelihood(x, tags, a, **more, engine=engine)

    for more in ({"lengths": lengths}, {"mask": mask}):
        compiled = jax.jit(lambda x, more=more: value(x, tags, **more))
        assert_close(compiled(x), value(x, tags, **more), 1e-6)
        with pytest.raises(ValueError, match=r"tags must be in 0\.\.3 at valid steps, got 9"):
            jax.jit(lambda x, more=more: value(x, wrong, **more))(x)
    assert_close(value(x, tags.at[1, 3].set(9), lengths=lengths), value(x, tags, lengths=lengths))


def test_k_best_and_samples(scores):
    x, a, start, end = scores
    more = {"lengths": LENGTHS, "start_transitions": start, "end_transitions": end}
    best = jax.jit(lambda x: crf.k_best(x, a, k=3, **more, engine="jax_native"))(x)
    assert_close(best, crf.k_best(x, a, k=3, **more, engine="keras"))
    chain = chain_of(x, a, **more)
    uniforms = jax.random.uniform(jax.random.key(0), (2, BATCH, STEPS))
    drawn = jax.jit(lambda uniforms: jax_native.sample(chain, uniforms))(uniforms)
    assert drawn.dtype == "int32"
    assert ((drawn >= 0) & (drawn < NUM_TAGS)).all()


WRONG_INPUTS = {
    "emissions": (0, lambda x: x[0]),
    "transitions": (1, lambda a: a[:, :-1]),
    "start_transitions": (2, lambda start: start[:-1]),
    "lengths": (4, lambda lengths: lengths[:-1]),
    "mask": (5, lambda mask: mask[:, :-1]),
    "tags": (6, lambda tags: tags[:, :-1]),
    "an array has the type 3": (3, lambda end: end.astype("int32")),
    "XLA's type number": (0, lambda x: x.astype("bfloat16")),
}


@pytest.mark.parametrize("named", WRONG_INPUTS)
def test_the_door_of_a_kernel_refuses(scores, tags, named):
    inputs = [*scores, jnp.asarray(LENGTHS, "int32"), jnp.ones((BATCH, STEPS), bool), tags]
    index, change = WRONG_INPUTS[named]
    inputs[index] = change(inputs[index])
    call = jax.ffi.ffi_call(
        "fastkeras_crf_value_float32",
        (jax.ShapeDtypeStruct((BATCH,), "float32"), jax.ShapeDtypeStruct((0,), "float32")),
    )
    attributes = {"quantity": np.int32(2), "keep_workspace": False, "num_threads": np.int32(1)}
    with pytest.raises(Exception, match=named):
        jax.block_until_ready(call(*inputs, **attributes))


def test_the_door_of_a_kernel_counts_its_inputs(scores):
    call = jax.ffi.ffi_call("fastkeras_crf_viterbi_float32", jax.ShapeDtypeStruct((), "int32"))
    with pytest.raises(Exception, match="Index out of range"):
        jax.block_until_ready(call(*scores, num_threads=np.int32(1)))


def test_a_library_that_is_missing_or_broken_says_what_mends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(_build, "FOLDER", tmp_path)
    (tmp_path / "_built.json").write_text('{"tensorflow": null, "jaxlib": null, "failed": {}}')
    with pytest.raises(ImportError, match=r"where no jaxlib was found, and this is .* builds it"):
        jax_ops._load()
    (tmp_path / f"{jax_ops.NAME}.so").write_text("no library")
    with pytest.raises(ImportError, match="builds it again"):
        jax_ops._load()
    with pytest.raises(ImportError, match="compiled from other sources"):
        jax_ops.function_of("fastkeras_of_another_name", None)


def test_a_library_for_a_newer_interface_than_jaxlib_has_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: tmp_path)
    jax_ops._check_interface()  # without headers XLA itself has to complain
    header = tmp_path / "xla" / "ffi" / "api" / "c_api.h"
    header.parent.mkdir(parents=True)
    header.write_text("#define XLA_FFI_API_MAJOR 0\n#define XLA_FFI_API_MINOR 0\n")
    with pytest.raises(ImportError, match=r"XLA's interface, and jaxlib .* has 0\.0: .* again"):
        jax_ops._check_interface()


WITHOUT_KERAS = """
import sys
sys.modules["keras"] = None  # as where it is not installed
import jax
import numpy as np
from jax import numpy as jnp
from fastkeras import crf

x, a, tags = jnp.ones((4, 6, 3)), jnp.eye(3), jnp.zeros((4, 6), "int32")
allowed = crf.constraints.allowed("BIO", ["O", "B-a", "I-a"])
scores = {"transitions": a, "lengths": np.array([6, 3, 1, 0])}
more = {"start_transitions": jnp.zeros(3), "end_transitions": jnp.zeros(3)}
jax.jit(jax.grad(lambda x: crf.log_likelihood(x, tags, **scores, mask=x[..., 0] > 0).sum()))(x)
for function in (crf.log_partition, crf.marginals, crf.viterbi, crf.posterior_decode, crf.entropy):
    for transform in (lambda function: function, jax.jit):
        transform(lambda x: function(x, **scores))(x)
crf.sequence_score(x, tags, **scores)
crf.k_best(x, k=2, **scores)
seeds = 3, jax.random.key(3)
first, again = (crf.sample(x, **scores, num_samples=2, seed=seed) for seed in seeds)
assert (first == again).all() and crf.sample(x, **scores, num_samples=2).shape == (2, 4, 6)
crf.log_partition(x, crf.LowRank(a[:, :2], a[:, 1:]))
crf.viterbi(x, **allowed.apply(a, **more))
crf.semi_markov.log_partition(x, a, jnp.zeros((2, 3)))
crf.kl_divergence(x, a, x + 1, a)
crf.memm.log_likelihood(x, tags, a)
crf.log_partition(x.astype("bfloat16"), a)
for wrong in (lambda: crf.viterbi(x, a, jnp.array([7, 0, 0, 0])), lambda: crf.log_partition(x, x)):
    try:
        wrong()
    except ValueError as error:
        assert "must" in str(error)
    else:
        raise AssertionError
"""


def test_the_functions_take_arrays_of_jax_without_keras():
    import subprocess
    import sys

    run = subprocess.run([sys.executable, "-c", WITHOUT_KERAS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_library_links_neither_tensorflow_nor_xla():
    import subprocess

    path = _build.FOLDER / f"{jax_ops.NAME}.so"
    undefined = subprocess.run(["nm", "-DCu", path], capture_output=True, text=True, check=True)
    assert not [line for line in undefined.stdout.splitlines() if "TF_" in line or "xla" in line]


SEGMENT_SHAPES = (*SHAPES[:2], (3, NUM_TAGS), *SHAPES[2:])


def of_segments(engine):
    def function(x, a, durations, start, end):
        more = {"start_transitions": start, "end_transitions": end, "engine": engine}
        return semi_markov.log_partition(x, a, durations, LENGTHS, **more)

    return function


@pytest.fixture
def segment_scores(rng):
    return tuple(jnp.asarray(rng.normal(size=shape), "float32") for shape in SEGMENT_SHAPES)


def test_log_z_of_segments_and_its_gradient_are_those_of_the_keras_engine(segment_scores, rng):
    assert _engines.engine_for("crf.semi_markov", segment_scores[0]).__name__.endswith("jax_native")
    weights = jnp.asarray(rng.normal(size=BATCH), "float32")

    def gradients(engine):
        def total(*scores):
            return (weights * of_segments(engine)(*scores)).sum()

        return jax.value_and_grad(total, argnums=range(5))

    ours = gradients("jax_native")
    assert_close(ours(*segment_scores), gradients("keras")(*segment_scores))
    assert_close(jax.jit(ours)(*segment_scores), ours(*segment_scores), 1e-6)
    with jax_ops.enable_x64(True):
        wide = [jnp.asarray(score, "float64") for score in segment_scores]
        assert_close(jax.jit(ours)(*wide), gradients("keras")(*wide), 1e-12)


def test_segments_that_weigh_nothing_contribute_nothing(segment_scores):
    x, *others = segment_scores
    x = x.at[0, 1, 0].set(jnp.nan)
    value, pull = jax.vjp(of_segments("jax_native"), x, *others)
    assert np.isnan(value[0]) and np.isfinite(value[1:]).all()
    for gradient in pull(jnp.array([0, 1, 1], "float32")):
        assert np.isfinite(gradient).all() and np.any(gradient)
    for gradient in pull(jnp.ones(BATCH, "float32")):
        assert np.isnan(gradient).any()


def test_what_has_no_derivative_of_segments_says_so(segment_scores):
    def log_z(x):
        return of_segments("jax_native")(x, *segment_scores[1:]).sum()

    x, a, durations = segment_scores[:3]
    refused = {
        "the score of viterbi: engine='keras' can": lambda x: semi_markov.viterbi(x, a, durations)[
            2
        ].sum(),
        "marginals: engine='keras' can": lambda x: semi_markov.marginals(x, a, durations)[0][
            0, 0, 0
        ],
        "marginals: engine='keras' can ": lambda x: jax.grad(log_z)(x)[0, 0, 0],
    }
    for words, function in refused.items():
        with pytest.raises(NotImplementedError, match=words.strip()):
            jax.grad(function)(x)
    with pytest.raises(NotImplementedError, match="engine='keras' has those of derivatives"):
        jax.jvp(log_z, (x,), (x,))
    with pytest.raises(ValueError, match=r"lengths must be in 0\.\.6"):
        semi_markov.log_partition(x, a, durations, np.array([7, 0, 0]))


WRONG_SEGMENTS = {
    "emissions": (0, lambda x: x[0]),
    "durations": (2, lambda durations: durations[:0]),
    "transitions": (1, lambda a: a[:, :-1]),
    "lengths must be in": (3, lambda lengths: lengths + STEPS),
    "start_transitions": (4, lambda start: start[:-1]),
    "an array has the type": (5, lambda end: end.astype("int32")),
}


@pytest.mark.parametrize("named", WRONG_SEGMENTS)
def test_the_door_of_segments_refuses(segment_scores, named):
    x, a, durations, start, end = segment_scores
    inputs = [x, a, durations, jnp.asarray(LENGTHS, "int32"), start, end]
    index, change = WRONG_SEGMENTS[named]
    inputs[index] = change(inputs[index])
    result = jax.ShapeDtypeStruct((BATCH,), "float32")
    call = jax.ffi.ffi_call("fastkeras_semi_markov_log_partition_float32", result)
    with pytest.raises(Exception, match=named):
        jax.block_until_ready(call(*inputs, num_threads=np.int32(1)))
