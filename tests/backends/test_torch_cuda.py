"""The engine `torch_cuda` without a GPU: its ops get CPU tensors, and its kernels are emulated.

Only the stream and the guard of the device are left out; tests/gpu/test_device.py has these.
"""

import sys
import warnings
from contextlib import nullcontext

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the ops are torch's")
if __import__("keras").backend.backend() != "torch":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)
if getattr(sys.modules.get("cupy"), "__version__", "") != "on CPUs":
    pytest.skip("CuPy is not emulated here", allow_module_level=True)

from calls import FUNCTIONS, check  # noqa: E402
from fastkeras import _arrays, _engines, crf  # noqa: E402
from fastkeras.crf.arguments import chain_of  # noqa: E402
from fastkeras.optimizers import transforms, update  # noqa: E402
from fastkeras.optimizers.hyperparameters import DEFAULTS  # noqa: E402
from fastkeras.optimizers.rules import RULES  # noqa: E402
from fastkeras.optimizers.step import no_extras  # noqa: E402

VALUES = ("log_partition", "sequence_score", "log_likelihood")
SHAPES = ((3, 70, 9), (2, 9, 33), (2, 6, 130))  # for up to 32 tags, up to 128, and more
CACHES = ("_load", "_first", "_state", "why_not_ready")


@pytest.fixture(scope="module", autouse=True)
def emulated():
    """Let the ops on CPU tensors take the kernels for CUDA, on the emulated GPU."""
    domains = "fastkeras.crf._engines.torch_cuda", "fastkeras.optimizers._engines.torch_cuda"
    forget_engines()  # another test may have asked for one, and found no GPU
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        from fastkeras._ops import torch_cuda as device
        from fastkeras.crf._engines import torch_cuda, torch_native  # noqa: F401 - before ours
        from fastkeras.optimizers._engines import torch_cuda as of_optimizers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "current", nullcontext)
        patch.setattr(device, "WHERE", torch.device("cpu"))
        patch.setattr(of_optimizers, "current", nullcontext)
        library = torch.library.Library("fastkeras", "IMPL")
        with warnings.catch_warnings(action="ignore"):  # torch warns of kernels that are replaced
            for name, kernel in torch_cuda.KERNELS.items():
                library.impl(name, kernel, "CPU", allow_override=True)
        yield
        library._destroy()
    for name in ("fastkeras._ops.torch_cuda", *domains):
        parent, _, child = name.rpartition(".")
        del sys.modules[name]
        delattr(sys.modules[parent], child)
    forget_engines()


def forget_engines():
    for name in CACHES:
        getattr(_engines, name).cache_clear()


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
    return {name: None if x is None else torch.tensor(x) for name, x in given.items()}


def of(function, given):
    """A function of the scores alone."""
    names = ["emissions", "transitions", "start_transitions", "end_transitions"]
    if function == "log_partition":
        given = {name: x for name, x in given.items() if name != "tags"}

    def call(*scores, engine=None):
        named = dict(zip(names, scores, strict=True))
        return getattr(crf, function)(**(given | named), engine=engine)

    return call, [given[name] for name in names]


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("scale", (1.0, 300.0))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function(function, shape, scale, dtype, rng):
    check(function, arguments(rng, shape, scale, dtype), "torch_cuda")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("function", VALUES)
def test_gradients_of_all_values(function, shape, rng):
    given = tensors(arguments(rng, shape, dtype="float64"))
    call, scores = of(function, given)
    weights = torch.tensor(rng.standard_normal(shape[0]))
    weights[0] = 0
    results = []
    for engine in (None, "keras"):
        leaves = [x.clone().requires_grad_() for x in scores]
        value = call(*leaves, engine=engine)
        results.append((value, *torch.autograd.grad((weights * value).sum(), leaves)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", ((0, 3, 4), (2, 0, 4)), ids=str)
@pytest.mark.parametrize("function", VALUES)
def test_gradients_of_nothing(function, shape, rng):
    call, scores = of(function, tensors(arguments(rng, shape)))
    leaves = [x.clone().requires_grad_() for x in scores]
    value = call(*leaves)
    assert value.tolist() == [0.0] * shape[0]
    for gradient in torch.autograd.grad(value.sum(), leaves):
        assert not gradient.any()


@pytest.mark.parametrize("function", VALUES)
def test_gradients_of_what_is_impossible_or_no_number(function, rng):
    given = tensors(arguments(rng, (4, 5, 3), dtype="float64") | {"mask": None, "lengths": None})
    given["emissions"][0, 2] = -torch.inf  # the first sequence is impossible
    given["emissions"][1, 2, given["tags"][1, 2]] = torch.nan
    given["emissions"][2, 2, given["tags"][2, 2]] = torch.inf
    call, scores = of(function, given)
    leaves = [x.clone().requires_grad_() for x in scores]
    value = call(*leaves)
    d_x, d_a, *_ = torch.autograd.grad(value.sum(), leaves)
    assert (d_x[0] == 0).all() and d_x[1].isnan().any() and d_x[2].isnan().any()
    assert d_x[3].isfinite().all() and d_a.isnan().any()


def test_the_kernels_are_called(rng, monkeypatch):
    from fastkeras._ops import cupy

    launched = []

    def launch(kernels, name, *more):
        launched.append(name)
        kernels.function(name, 0)

    monkeypatch.setattr(cupy, "launch", launch)
    crf.log_likelihood(**tensors(arguments(rng)))
    assert launched[0] == "prepare" and "sweeps" in launched


@pytest.mark.parametrize("function", VALUES)
def test_under_torch_compile(function, rng):
    call, scores = of(function, tensors(arguments(rng)))

    def value_and_gradients(call, *scores):
        leaves = [x.clone().requires_grad_() for x in scores]
        value = call(*leaves).sum()
        return value, *torch.autograd.grad(value, leaves)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    expected = value_and_gradients(call, *scores)
    for ours, other in zip(value_and_gradients(compiled, *scores), expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=0)


def test_under_vmap(rng):
    call, (x, *scores) = of("log_likelihood", tensors(arguments(rng)))
    x = torch.stack((x, 2 * x))
    gradient = torch.func.grad(lambda x: call(x, *scores).sum())
    for function in (lambda x: call(x, *scores), gradient):
        expected = torch.stack([function(one) for one in x])
        torch.testing.assert_close(torch.func.vmap(function)(x), expected, rtol=1e-6, atol=1e-6)


def test_samples_and_the_k_best(rng):
    given = arguments(rng)
    del given["tags"]
    for found in (
        crf.k_best(**tensors(given), k=3),
        crf.k_best(**given, k=3, engine="torch_cuda"),
    ):
        for ours, expected in zip(found, crf.k_best(**given, k=3, engine="cupy"), strict=True):
            np.testing.assert_array_equal(np.asarray(ours), expected)
    drawn = crf.sample(**tensors(given), num_samples=4, seed=3)
    assert drawn.shape == (4, 3, 7) and drawn.dtype == torch.int32


def test_cuda_tensors_go_to_the_ops(rng):
    """Seen with tensors that have no memory, which need no GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.no_grad():  # autograd would look for the GPU
        x = torch.empty((3, 7, 4), device="cuda")
        transitions = torch.empty((4, 4), device="cuda")
        tags = torch.empty((3, 7), device="cuda", dtype=torch.int64)
        assert _arrays.family_of(x) == "torch_elsewhere"
        chain = chain_of(x, transitions)
        assert {part.device.type for part in chain if part is not None} == {"cuda"}
        assert _engines.engine_for("crf", x).__name__.endswith(".torch_cuda")
        value = crf.log_likelihood(x, tags, transitions)
        _, gradients = crf.log_likelihood_and_gradients(x, tags, transitions)
        best, score = crf.viterbi(x, transitions)
    assert (value.device.type, value.shape) == ("cuda", (3,))
    assert {gradient.device.type for gradient in gradients} == {"cuda"}
    assert (best.device.type, best.dtype, score.device.type) == ("cuda", torch.int32, "cuda")


def test_tensors_of_two_devices_are_refused():
    from fastkeras.crf._engines.torch_cuda import KERNELS

    here, there = torch.zeros((1, 2, 3)), torch.zeros((3, 3), device="meta")
    with pytest.raises(ValueError, match="all tensors must be on one device, got cpu and meta"):
        KERNELS["crf_viterbi"](here, there)


def test_what_has_no_gradient_says_so(rng):
    given = tensors(arguments(rng))
    del given["tags"]
    given["emissions"].requires_grad_()
    with pytest.raises(NotImplementedError, match="cannot differentiate the score of viterbi"):
        crf.viterbi(**given)[1].sum().backward()


def test_transitions_that_vary_go_to_the_engine_keras():
    functions = _engines.engine_of_family("crf", "torch_elsewhere", None, "VARYING_TRANSITIONS")
    assert functions.__name__.endswith(".keras")
    with pytest.raises(ValueError, match="does not take transitions that vary"):
        crf.log_partition(np.zeros((1, 3, 2)), np.zeros((2, 2, 2)), engine="torch_cuda")


def test_torch_compile_traces_the_door_for_tensors_elsewhere(rng):
    """Seen with tensors that have no memory, since new tensors have to be made on their device."""
    given = {name: x.to("meta") for name, x in tensors(arguments(rng)).items()}
    given |= {"lengths": None, "start_transitions": None}

    @torch.compile(fullgraph=True, backend="eager")
    def likelihood(given):
        return crf.log_likelihood(**given)

    value = likelihood(given)
    assert (value.device.type, value.shape) == ("meta", (3,))


CHAIN = (transforms.sanitize(), transforms.clip_by_norm(0.5))


@pytest.mark.parametrize("dtype", ("float32", "float64", "bfloat16", "float16"))
@pytest.mark.parametrize("rule", ("adam", "sgd", "lion", "rmsprop"))
def test_an_optimizer_step(rule, dtype, rng):
    """Compared with the C++ kernels, in the tensors' own memory."""
    from fastkeras.optimizers._engines import torch_cuda, torch_native

    kind, shapes = getattr(torch, dtype), ((300, 7), (5,), (0, 3), (2049,))
    wide = torch.float64 if dtype == "float64" else torch.float32

    def drawn(kind):
        return [torch.tensor(rng.normal(size=shape), dtype=kind) for shape in shapes]

    parameters, gradients = drawn(kind), drawn(kind)
    gradients[0] = gradients[0].t().contiguous().t()
    slots = [[torch.rand(s, dtype=wide) for _ in RULES[rule].slots] for s in shapes]
    remainders = drawn(torch.float32) if kind.itemsize == 2 else [None] * len(shapes)
    numbers = {**DEFAULTS, "u_product": np.float64(0.9)}, np.float64(0.1), np.ones(1), np.ones(1)
    width = len(RULES[rule].coefficients(np, *numbers))
    coefficients = torch.tensor(rng.uniform(0.1, 0.9, (len(shapes), width)))
    results = []
    for engine in (torch_cuda, torch_native):
        own = [x.clone() for x in parameters]
        own_slots = [[x.clone() for x in of_one] for of_one in slots]
        own_remainders = [None if x is None else x.clone() for x in remainders]
        before = [x.data_ptr() for x in own]
        *_, finite = engine.step(
            *(rule, own, gradients, own_slots, torch.tensor([False, True, False, False])),
            *(coefficients, np.full(len(shapes), 1e-3), [CHAIN] * len(shapes)),
            no_extras(4)._replace(remainders=own_remainders, rates=np.full(4, 0.1)),
        )
        assert finite and [x.data_ptr() for x in own] == before
        assert own[0]._version > 0
        results.append([*own, *(x for of_one in own_slots for x in of_one)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


def test_optimizers_of_numpy_arrays_and_gradients_that_are_not_finite(rng):
    values = [rng.normal(size=9).astype("float32")]
    arguments = "sgd", values, [np.full(9, np.nan, "float32")], [()]
    transform = [(transforms.sanitize(),)]
    kept = values[0].copy()
    update(*arguments, learning_rate=0.1, transforms=transform, engine="torch_cuda")
    np.testing.assert_array_equal(values[0], kept)


def test_why_the_kernels_do_not_take_variables():
    from fastkeras.optimizers._engines.torch_tensors import why_not

    elsewhere = torch.zeros(3, device="meta")
    assert why_not([torch.zeros(3), elsewhere], torch.device("cpu")) == "a variable is on meta"
    assert why_not([torch.zeros(3)], torch.device("cuda", 0)) == "a variable is on cpu"


@pytest.mark.parametrize("max_norm", (None, 0.5))
def test_adamw_of_torch_on_a_gpu(max_norm, rng, monkeypatch):
    """`compat.torch_optim.AdamW`, with a rate for each parameter, against that of torch."""
    from fastkeras.compat import torch_optim
    from fastkeras.optimizers._engines import torch_cuda

    monkeypatch.setattr(torch_optim, "_engine_for", lambda device: torch_cuda)
    values = [torch.tensor(rng.normal(size=shape)) for shape in ((300, 7), (5,), (), (0, 2))]
    results = []
    for make in (torch_optim.AdamW, torch.optim.AdamW):
        parameters = [torch.nn.Parameter(value.clone()) for value in values]
        groups = [{"params": [p], "lr": 0.1 * (i + 1)} for i, p in enumerate(parameters)]
        ours = make is torch_optim.AdamW
        optimizer = make(groups, max_norm=max_norm) if ours else make(groups)
        for step in range(3):
            for parameter in parameters:
                parameter.grad = torch.sin(parameter.detach() + step)
            if max_norm is not None and not ours:
                torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizer.step()
        results.append((parameters, optimizer.state_dict()["state"]))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", (16, 8))
def test_narrow_moments_of_adamw_on_a_gpu(bits, rng, monkeypatch):
    """They are rounded by the random bits that they have on a CPU."""
    from fastkeras.compat import _torch_moments, torch_optim
    from fastkeras.optimizers._engines import torch_cuda

    value, gradient = (torch.tensor(rng.normal(size=(80, 60)), dtype=torch.float32) for _ in "ab")
    results = []
    for is_on_gpu in (True, False):
        if not is_on_gpu:
            monkeypatch.undo()
        else:
            monkeypatch.setattr(torch_optim, "_engine_for", lambda device: torch_cuda)
        parameter = torch.nn.Parameter(value.clone())
        optimizer = torch_optim.AdamW([parameter], moment_bits=bits)
        parameter.grad = gradient
        optimizer.step()
        results.append((parameter.detach(), *_torch_moments.of(optimizer.state[parameter])))
    (ours, *on_gpu), (theirs, *on_cpu) = results
    torch.testing.assert_close(ours, theirs)
    # what is next to where it is rounded up or down may be rounded otherwise
    assert sum(int((a != b).sum()) for a, b in zip(on_gpu, on_cpu, strict=True)) <= 2
