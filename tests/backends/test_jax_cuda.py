"""The engine `jax_cuda` without a GPU: its programs run on the CPU, and its kernels are emulated.

Only XLA's stream and CUDA's driver are left out; tests/gpu/test_device.py has these.
"""

import sys

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the calls are XLA's")
if __import__("keras").backend.backend() != "jax":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)
if getattr(sys.modules.get("cupy"), "__version__", "") != "on CPUs":
    pytest.skip("CuPy is not emulated here", allow_module_level=True)

from jax import numpy as jnp  # noqa: E402

from calls import FUNCTIONS, check  # noqa: E402
from fastkeras import _arrays, _engines, crf  # noqa: E402
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
        assert _engines.engines("crf")["jax_cuda"] == "ready"
        # JAX arrays on the CPU are then taken for arrays on a GPU
        patch.setattr(_arrays, "_jax_is_on_cpu", lambda array=None: False)
        yield
    for name in ("fastkeras._ops.jax_cuda", "fastkeras.crf._engines.jax_cuda"):
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
