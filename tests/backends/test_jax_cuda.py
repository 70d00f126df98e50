"""The engine `jax_cuda` without a GPU: its programs run on the CPU, and its kernels are emulated.

Only XLA's stream and CUDA's driver are left out; tests/gpu/test_device.py has these.
"""

import sys
from functools import partial

import keras
import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the calls are XLA's")
if keras.backend.backend() != "jax":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)
if getattr(sys.modules.get("cupy"), "__version__", "") != "on CPUs":
    pytest.skip("CuPy is not emulated here", allow_module_level=True)

from jax import numpy as jnp  # noqa: E402

from calls import FUNCTIONS, check  # noqa: E402
from fastkeras import _arrays, _engines, crf, optimizers  # noqa: E402
from fastkeras.optimizers import transforms, update  # noqa: E402
from fastkeras.optimizers.hyperparameters import DEFAULTS  # noqa: E402
from fastkeras.optimizers.rules import RULES  # noqa: E402
from fastkeras.optimizers.step import no_extras  # noqa: E402
from gpu import plans_on_cpu  # noqa: E402

VALUES = ("log_partition", "sequence_score", "log_likelihood")
SHAPES = ((3, 70, 9), (2, 9, 33), (2, 6, 130))  # for up to 32 tags, up to 128, and more
CACHES = ("_load", "_first", "_state", "why_not_ready")


def forget():
    for name in CACHES:
        getattr(_engines, name).cache_clear()
    jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def emulated():
    forget()
    with pytest.MonkeyPatch.context() as patch:
        plans_on_cpu.install(patch)
        for domain in ("crf", "optimizers"):
            assert _engines.engines(domain)["jax_cuda"] == "ready"
        # JAX arrays on the CPU are then taken for arrays on a GPU
        patch.setattr(_arrays, "_jax_is_on_cpu", lambda array=None: False)
        yield
    domains = (f"fastkeras.{domain}._engines.jax_cuda" for domain in ("crf", "optimizers"))
    for name in ("fastkeras._ops.jax_cuda", *domains):
        parent, _, child = name.rpartition(".")
        del sys.modules[name]
        delattr(sys.modules[parent], child)
    forget()


def arguments(rng, shape=(3, 7, 4), scale=1.0, dtype="float32"):
    batch, steps, num_tags = shape
    mask = rng.random((batch, steps)) < 0.8
    mask[:1, :1] = False
    return {
        "emissions": (scale * rng.standard_normal(shape)).astype(dtype),
        "tags": rng.integers(0, num_tags, (batch, steps)).astype("int32"),
        "transitions": rng.standard_normal((num_tags, num_tags)).astype(dtype),
        "lengths": rng.integers(min(1, steps), steps + 1, batch),
        "mask": mask,
        "start_transitions": rng.standard_normal(num_tags).astype(dtype),
        "end_transitions": rng.standard_normal(num_tags).astype(dtype),
    }


def tensors(given):
    return {name: None if x is None else jnp.asarray(x) for name, x in given.items()}


def of(function, given):
    """A function of the scores alone."""
    names = ["emissions", "transitions", "start_transitions", "end_transitions"]
    if function == "log_partition":
        given = {name: x for name, x in given.items() if name != "tags"}

    def call(*scores, engine=None):
        named = dict(zip(names, scores, strict=True))
        return getattr(crf, function)(**(given | named), engine=engine)

    return call, [given[name] for name in names]


def assert_close(ours, expected, tolerance=2e-5):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("scale", (1.0, 300.0))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function(function, shape, scale, dtype, rng):
    check(function, arguments(rng, shape, scale, dtype), "jax_cuda")


def test_arrays_go_to_the_kernels(rng):
    plans_on_cpu.launched.clear()
    crf.log_likelihood(**tensors(arguments(rng)))
    assert plans_on_cpu.launched[0] == "prepare" and "sweeps" in plans_on_cpu.launched


@pytest.mark.parametrize("shape", (*SHAPES, (0, 3, 4), (2, 0, 4)), ids=str)
@pytest.mark.parametrize("function", VALUES)
def test_gradients_of_all_values_under_jit(function, shape, rng):
    call, scores = of(function, tensors(arguments(rng, shape)))
    weights = jnp.asarray(rng.standard_normal(shape[0]), "float32").at[:1].set(0)

    def total(*scores, engine):
        return (weights * call(*scores, engine=engine)).sum()

    results = [
        jax.jit(jax.value_and_grad(lambda *x, e=engine: total(*x, engine=e), (0, 1, 2, 3)))(*scores)
        for engine in (None, "keras")
    ]
    assert_close(*results)


@pytest.mark.parametrize("axes", ((0, None, None, None), (0, 0, None, 0), (None, 0, 0, None)))
def test_under_vmap(axes, rng):
    call, scores = of("log_likelihood", tensors(arguments(rng)))
    twice = [
        jnp.stack((x, 2 * x)) if axis == 0 else x for x, axis in zip(scores, axes, strict=True)
    ]
    gradient = jax.grad(lambda *x: call(*x).sum(), (0, 1, 2, 3))
    for function in (call, gradient):
        expected = [
            function(*(x[i] if axis == 0 else x for x, axis in zip(twice, axes, strict=True)))
            for i in range(2)
        ]
        expected = jax.tree.map(lambda *x: jnp.stack(x), *expected)
        assert_close(jax.jit(jax.vmap(function, axes))(*twice), expected, 1e-6)


def test_inside_of_scan_and_shard_map(rng):
    call, (x, *scores) = of("log_likelihood", tensors(arguments(rng)))
    gradient = jax.grad(lambda x: call(x, *scores).sum())
    expected = gradient(x)
    _, scanned = jax.lax.scan(lambda _, x: (None, gradient(x)), None, x[None])
    assert_close(scanned[0], expected, 1e-6)
    if not hasattr(jax, "shard_map"):
        return
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:1]), ("batch",))
    batch, shared = jax.sharding.PartitionSpec("batch"), jax.sharding.PartitionSpec()
    given = tensors(arguments(rng))

    def of_shard(x, tags, transitions):
        return jax.grad(lambda *x: crf.log_likelihood(x[0], tags, x[1]).sum(), (0, 1))(
            x, transitions
        )

    inputs = given["emissions"], given["tags"], given["transitions"]
    sharded = jax.shard_map(
        of_shard, mesh=mesh, in_specs=(batch, batch, shared), out_specs=(batch, shared)
    )
    assert_close(jax.jit(sharded)(*inputs), of_shard(*inputs), 1e-6)


def test_samples_and_the_k_best(rng):
    given = arguments(rng)
    del given["tags"]
    for found in (
        jax.jit(lambda given: crf.k_best(**given, k=3))(tensors(given)),
        crf.k_best(**given, k=3, engine="jax_cuda"),
    ):
        for ours, expected in zip(found, crf.k_best(**given, k=3, engine="cupy"), strict=True):
            np.testing.assert_array_equal(np.asarray(ours), expected)
    drawn = crf.sample(**tensors(given), num_samples=4, seed=3)
    assert drawn.shape == (4, 3, 7) and drawn.dtype == jnp.int32


def test_transitions_that_vary_go_to_the_engine_keras():
    functions = _engines.engine_of_family("crf", "jax_elsewhere", None, "VARYING_TRANSITIONS")
    assert functions.__name__.endswith(".keras")


def test_arguments_are_donated(rng):
    """A result can take the memory of an argument that has its shape."""
    given = tensors(arguments(rng))
    call, (x, *scores) = of("log_likelihood", given)
    gradient = jax.jit(jax.grad(lambda x: call(x, *scores).sum()), donate_argnums=0)
    expected = jax.grad(lambda x: call(x, *scores).sum())(x)
    assert_close(gradient(x.copy()), expected, 0)


def exported(platforms, given, monkeypatch):
    monkeypatch.setattr(sys.modules["fastkeras._ops.jax_cuda"], "PLATFORM", "cuda")
    jax.clear_caches()
    call, scores = of("log_likelihood", given)
    gradient = jax.jit(jax.grad(lambda *x: call(*x).sum(), (0, 1, 2, 3)))
    calls = ("cuda_plan", *(f"crf_{n}_float32" for n in ("value", "gradient")))
    allowed = [jax.export.DisabledSafetyCheck.custom_call(f"fastkeras_{name}") for name in calls]
    exported = jax.export.export(gradient, platforms=platforms, disabled_checks=allowed)(*scores)
    jax.clear_caches()
    return exported.mlir_module()


def test_programs_for_cuda_hold_plans_and_no_kernel_for_cpus(rng, monkeypatch):
    given = tensors(arguments(rng))
    text = exported(["cuda"], given, monkeypatch)
    assert text.count("fastkeras_cuda_plan") == 2 and "fastkeras_crf" not in text
    text = exported(["cpu"], given, monkeypatch)
    assert "fastkeras_cuda_plan" not in text and "fastkeras_crf_gradient" in text


SMALL = """
struct Record { int number; const float* given; float* made; };
struct Table { Record of[4]; };
extern "C" __global__ void __launch_bounds__(32, 1)
    add(Table table, double much, float* sums, const float* nothing, int* scratch) {
  const int i = threadIdx.x;
  const Record& record = table.of[blockIdx.x];
  if (i < 3) record.made[i] = (record.given ? record.given[i] : 0) + float(much) + record.number;
  if (i == 0 && !nothing) sums[blockIdx.x] += float(++scratch[blockIdx.x]);
}
FASTKERAS_KERNEL(add);
"""


def small_plan():
    from fastkeras._ops import cupy
    from fastkeras._ops.cuda_plan import Array, Recorder
    from fastkeras._ops.records import ARRAY, Records

    kernels = cupy.Kernels(cupy.DEVICE_HEADER.read_text() + SMALL)
    recorder = Recorder()
    given, *made = Array((3,), "float32"), *(recorder.empty((3,), "float32") for _ in range(2))
    fields = ("number", "i4"), ("given", ARRAY), ("made", ARRAY)
    table = Records(fields, {"number": [7, 9], "given": [given, None], "made": made}, 4)
    sums, scratch = recorder.zeros((2,), "float32"), recorder.zeros((2,), "int32")
    for _ in range(2):
        recorder.launch(kernels, "add", 2, 32, table, np.float64(0.5), sums, None, scratch)
    return recorder.plan([given], (*made, sums))


def call_plan(words, names="", shapes=((3,), (3,), (2,), (256,))):
    results = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    call = jax.ffi.ffi_call("fastkeras_cuda_plan", results)
    return jax.block_until_ready(
        call(
            jnp.ones(3, "float32"), plan=np.array(words, np.int64), kernels=names, rank=np.int32(1)
        )
    )


@pytest.mark.parametrize(
    ("words", "message"),
    (
        ([2], "of another version"),
        ([1, 7], "damaged: operation 7"),
        ([1, 0, 9, 0, 4], "damaged: buffer 9"),
        ([1, 0, -1, 0, 4], "damaged: buffer -1"),
        ([1, 0, 1, 13, 0], "damaged: offset 13"),
        ([1, 0, 1, 8, 5], "damaged: size 5"),
        ([1, 0, 1, 8], "damaged: it ends too soon"),
        ([1, 1, 0], "damaged: kernel 0"),
    ),
)
def test_a_damaged_plan_is_refused(words, message):
    with pytest.raises(Exception, match=message):
        call_plan(words)


def test_kernels_that_are_not_loaded_are_named():
    with pytest.raises(Exception, match="kernel 123/sweeps of fastkeras is not loaded"):
        call_plan([1], "123/sweeps\n")


def test_no_plan_leaves_its_buffers(rng, monkeypatch):
    """Whatever the numbers are, there is a result or an error; the kernels do not run here."""
    from fastkeras._ops import jax_cuda

    plan = small_plan()
    for kernels, name in plan.kernels:
        jax_cuda._load(kernels, name)
    first, second, sums, _ = call_plan(plan.words, plan.names)
    np.testing.assert_array_equal(first, np.full(3, 8.5))
    np.testing.assert_array_equal(second, np.full(3, 9.5))
    np.testing.assert_array_equal(sums, [3, 3])
    monkeypatch.setattr(plans_on_cpu, "runs", False)
    for _ in range(100):
        words = plan.words.copy()
        words[rng.integers(1, len(words))] = rng.choice([-1, 0, 1, 3, 40, 2**31, 2**62])
        try:
            call_plan(words[: rng.integers(1, len(words) + 1)], plan.names)
        except Exception as error:  # JAX has an error class of its own
            assert "the plan is damaged" in str(error)


STEPS = (transforms.sanitize(), transforms.clip_by_norm(0.5))


@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "float16"))
@pytest.mark.parametrize("rule", ("adam", "sgd", "lion"))
def test_an_optimizer_step(rule, dtype, rng):
    """Compared with the C++ kernels, in a compiled program whose arguments are donated."""
    from fastkeras.optimizers._engines import jax_cuda, native

    shapes = (300, 7), (5,), (0, 3), (2049,), (40, 5)
    values, gradients = (
        [rng.normal(size=shape).astype(jnp.dtype(dtype)) for shape in shapes] for _ in range(2)
    )
    rows = [*[None] * 4, np.array([1, 7, 30])]
    gradients[4] = gradients[4][:3]
    slots = [[rng.uniform(size=s).astype("float32") for _ in RULES[rule].slots] for s in shapes]
    is_half = dtype != "float32"
    remainders = [rng.normal(size=s).astype("float32") if is_half else None for s in shapes]
    numbers = {**DEFAULTS, "u_product": 0.9}, np.float64(0.1), np.ones(1), np.ones(1)
    width = len(RULES[rule].coefficients(np, *numbers))
    coefficients = rng.uniform(0.1, 0.9, (5, width)).astype("float32")
    frozen, decays = np.array([False, True, False, False, False]), np.full(5, 1e-3, "float32")
    rest = decays, [STEPS] * 5
    extras = no_extras(5)._replace(rates=np.full(5, 0.1, "float32"), rows=rows)
    launched = len(plans_on_cpu.launched)

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(values, slots, remainders, gradients, coefficients):
        more = extras._replace(remainders=remainders)
        return jax_cuda.step(rule, values, gradients, slots, frozen, coefficients, *rest, more)

    given = values, slots, remainders
    ours = step(*jax.tree.map(jnp.asarray, (*given, gradients, coefficients)))
    assert len(plans_on_cpu.launched) > launched
    copies = jax.tree.map(np.array, given)
    more = extras._replace(rates=np.full(5, 0.1), remainders=copies[2])
    wide = coefficients.astype("float64"), decays.astype("float64"), rest[1]
    native.step(rule, copies[0], gradients, copies[1], frozen, *wide, more)
    assert ours[3]
    for one, other in zip(jax.tree.leaves(ours[:3]), jax.tree.leaves(copies), strict=True):
        one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
        rounding = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
        np.testing.assert_allclose(one, other, rtol=rounding, atol=rounding)


def test_fused_optimizers_of_keras_take_the_kernels(rng):
    optimizer = optimizers.AdamW(0.01, weight_decay=0.1)
    values = [rng.normal(size=shape).astype("float32") for shape in ((30, 4), (7,))]
    variables = [keras.Variable(value) for value in values]
    optimizer.build(variables)
    assert optimizer._engine_and_reason() == ("jax_cuda", "")
    gradients = [jnp.asarray(value) for value in values]
    state = [v.value for v in variables], [v.value for v in optimizer.variables]
    apply = jax.jit(lambda state: optimizer.stateless_apply(state[1], gradients, state[0]))
    new, _ = apply(state)
    expected = [value.copy() for value in values]
    slots = [(np.zeros_like(value), np.zeros_like(value)) for value in values]
    update(
        *("adam", expected, values, slots),
        **{"learning_rate": 0.01, "weight_decays": [0.1, 0.1], "epsilon": 1e-7},
        engine="reference",
    )
    for one, other in zip(new, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
