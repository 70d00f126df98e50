"""On a real GPU: tensors of torch and arrays of JAX, as programs hand them to the CUDA kernels.

Everything is compared with the reference in float64. Where there is no GPU, all is skipped with the
reason; tests/backends/test_torch_cuda.py and test_jax_cuda.py run the same code by emulation.
"""

import os
import warnings
from contextlib import contextmanager

import numpy as np
import pytest

import fastkeras
from fastkeras import crf

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory too

SCORES = ("emissions", "transitions", "start_transitions", "end_transitions")
SHAPES = ((8, 70, 9), (4, 40, 33), (2, 20, 130))
VALUES = ("log_partition", "sequence_score", "log_likelihood")


def the(framework):
    """The framework, if it has a GPU here and the CUDA kernels take its arrays."""
    module = pytest.importorskip(framework, reason=f"{framework} is not installed")
    state = fastkeras.engines("crf")[f"{framework}_cuda"]
    if state != "ready":
        pytest.skip(state)
    if framework == "jax" and module.default_backend() != "gpu":
        pytest.skip(f"JAX computes on {module.default_backend()} here")
    return module


@pytest.fixture(scope="module")
def torch():
    return the("torch")


@pytest.fixture(scope="module")
def jax():
    return the("jax")


def chain_of(shape, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    batch, steps, num_tags = shape
    mask = rng.random((batch, steps)) < 0.8
    mask[0, 0] = False
    return {
        "emissions": (scale * rng.standard_normal(shape)).astype("float32"),
        "tags": rng.integers(0, num_tags, (batch, steps)).astype("int32"),
        "transitions": rng.standard_normal((num_tags, num_tags)).astype("float32"),
        "lengths": rng.integers(1, steps + 1, batch).astype("int32"),
        "mask": mask,
        "start_transitions": rng.standard_normal(num_tags).astype("float32"),
        "end_transitions": rng.standard_normal(num_tags).astype("float32"),
    }


def in_float64(chain):
    return {n: x.astype("float64") if x.dtype == "float32" else x for n, x in chain.items()}


def expected_of(chain):
    """The likelihoods, and the gradients of their sum, by the reference in float64."""
    value, gradients = crf.log_likelihood_and_gradients(**in_float64(chain), engine="reference")
    return value, *gradients


def assert_close(ours, expected, scale=1.0):
    """As accurate as float32 allows, for numbers of this size summed over some hundred steps."""
    for one, other in zip(ours, expected, strict=True):
        one = np.asarray(one.detach().cpu() if hasattr(one, "detach") else one)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5 * scale)


def on_gpu(torch, chain, device="cuda"):
    return {name: torch.tensor(x, device=device) for name, x in chain.items()}


def loss_of(torch, given):
    """A function of the scores that returns the likelihoods and the gradients of their sum."""

    def value_and_gradients(*scores):
        leaves = [x.detach().requires_grad_() for x in scores]
        value = crf.log_likelihood(**(given | dict(zip(SCORES, leaves, strict=True))))
        return value, *torch.autograd.grad(value.sum(), leaves)

    return value_and_gradients, [given[name] for name in SCORES]


@pytest.mark.parametrize("scale", (1.0, 300.0))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_of_torch(torch, shape, scale):
    chain = chain_of(shape, scale)
    function, scores = loss_of(torch, on_gpu(torch, chain))
    results = function(*scores)
    assert all(result.device.type == "cuda" for result in results)
    assert_close(results, expected_of(chain), scale)


def test_all_functions_of_torch(torch):
    chain = chain_of(SHAPES[0])
    given, wide = on_gpu(torch, chain), in_float64(chain)
    for name in VALUES:
        without = {"tags"} if name == "log_partition" else set()
        result = getattr(crf, name)(**{n: x for n, x in given.items() if n not in without})
        expected = getattr(crf, name)(
            **{n: x for n, x in wide.items() if n not in without}, engine="reference"
        )
        assert_close([result], [expected])
    for each in (given, wide):
        del each["tags"]
    assert_close(crf.marginals(**given), crf.marginals(**wide, engine="reference"))
    assert_close(crf.viterbi(**given), crf.viterbi(**wide, engine="reference"))
    assert_close(crf.k_best(**given, k=3), crf.k_best(**wide, k=3, engine="reference"))
    drawn = crf.sample(**given, num_samples=5, seed=1)
    assert drawn.shape == (5, *SHAPES[0][:2]) and drawn.device.type == "cuda"


def test_gradients_of_all_values_of_torch(torch):
    """By differences of the reference, in one direction."""
    chain = chain_of(SHAPES[0])
    wide, rng = in_float64(chain), np.random.default_rng(1)
    direction = {name: rng.standard_normal(chain[name].shape) for name in SCORES}
    for name in VALUES:
        without = {"tags"} if name == "log_partition" else set()
        given = {n: x for n, x in on_gpu(torch, chain).items() if n not in without}
        leaves = {n: given[n].requires_grad_() for n in SCORES}
        value = getattr(crf, name)(**(given | leaves)).sum()
        gradients = torch.autograd.grad(value, list(leaves.values()))
        slope = sum(
            (gradient.cpu().numpy() * direction[n]).sum()
            for n, gradient in zip(SCORES, gradients, strict=True)
        )

        def at(step, name=name, without=without):
            moved = wide | {n: wide[n] + step * direction[n] for n in SCORES}
            moved = {n: x for n, x in moved.items() if n not in without}
            return getattr(crf, name)(**moved, engine="reference").sum()

        np.testing.assert_allclose(slope, (at(1e-4) - at(-1e-4)) / 2e-4, rtol=1e-4)


def test_torch_compile(torch):
    chain = chain_of(SHAPES[0])
    given = on_gpu(torch, chain)
    leaves = [given[name].requires_grad_() for name in SCORES]

    @torch.compile(fullgraph=True, backend="aot_eager")
    def likelihood(*scores):
        return crf.log_likelihood(**(given | dict(zip(SCORES, scores, strict=True))))

    value = likelihood(*leaves)
    assert_close((value, *torch.autograd.grad(value.sum(), leaves)), expected_of(chain))


def test_streams_of_torch(torch):
    """Work on another stream waits for what that stream did before, and for nothing else."""
    chain = chain_of(SHAPES[0])
    function, scores = loss_of(torch, on_gpu(torch, chain))
    function(*scores)  # compiles
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        delayed = torch.zeros_like(scores[0])
        torch.cuda._sleep(20_000_000)
        delayed.copy_(scores[0])
        results = function(delayed, *scores[1:])
    stream.synchronize()
    assert_close(results, expected_of(chain))


@contextmanager
def no_waiting(torch):
    """An error where the host waits for the GPU; torch warns that it does not notice all of it."""
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_host_does_not_wait_for_torch(torch):
    function, scores = loss_of(torch, on_gpu(torch, chain_of(SHAPES[0])))
    function(*scores)  # compiles
    torch.cuda.synchronize()
    with no_waiting(torch):
        function(*scores)


def test_cuda_graphs_of_torch(torch):
    first, second = chain_of(SHAPES[0]), chain_of(SHAPES[0], seed=1)
    second = first | {name: second[name] for name in SCORES}
    function, scores = loss_of(torch, on_gpu(torch, first))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            function(*scores)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function(*scores)
    for chain in (first, second):
        for name, x in zip(SCORES, scores, strict=True):
            x.copy_(torch.tensor(chain[name]))
        graph.replay()
        torch.cuda.synchronize()
        assert_close(results, expected_of(chain))


def test_a_tensor_on_the_cpu_among_those_of_the_gpu_is_refused(torch):
    given = on_gpu(torch, chain_of(SHAPES[0]))
    given["transitions"] = given["transitions"].cpu()
    with pytest.raises(ValueError, match="all tensors must be on one device"):
        crf.log_likelihood(**given)


def test_the_engines_by_name_take_numpy_arrays():
    chain = chain_of(SHAPES[0])
    for engine in ("torch_cuda", "jax_cuda"):
        if fastkeras.engines("crf")[engine] == "ready":
            value, gradients = crf.log_likelihood_and_gradients(**chain, engine=engine)
            assert isinstance(value, np.ndarray)
            assert_close((value, *gradients), expected_of(chain))


@pytest.mark.parametrize("on_device", (False, True), ids=("numbers of the host", "of the GPU"))
def test_an_optimizer_step_of_torch(torch, on_device):
    """Adam's rule on torch's tensors, against NumPy in float64; the host does not wait."""
    state = fastkeras.engines("optimizers")["torch_cuda"]
    if state != "ready":
        pytest.skip(state)
    from fastkeras.optimizers._engines import torch_cuda
    from fastkeras.optimizers.step import no_extras

    rng, shapes = np.random.default_rng(0), ((300, 7), (5,), (5000,))
    values = [rng.standard_normal(shape).astype("float32") for shape in shapes]
    gradients = [rng.standard_normal(shape).astype("float32") for shape in shapes]
    coefficients = np.tile([0.1, 0.1, 0.001, 1e-7], (3, 1))  # of the first step, uncorrected
    parameters, taken = ([torch.tensor(x, device="cuda") for x in of] for of in (values, gradients))
    slots = [[torch.zeros_like(x) for _ in range(2)] for x in parameters]
    numbers = np.zeros(3, bool), coefficients, np.zeros(3)
    if on_device:
        numbers = [torch.tensor(x, device="cuda") for x in numbers]

    def step(*written):
        torch_cuda.step("adam", written[0], taken, written[1], *numbers, [()] * 3, no_extras(3))

    step([x.clone() for x in parameters], [[x.clone() for x in of] for of in slots])  # compiles
    with no_waiting(torch):
        step(parameters, slots)
    for value, gradient, parameter in zip(values, gradients, parameters, strict=True):
        wide = gradient.astype("float64")
        change = 0.1 * (0.1 * wide) / (np.sqrt(0.001 * wide**2) + 1e-7)
        np.testing.assert_allclose(parameter.cpu(), value - change, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("max_norm", (None, 0.5))
def test_adamw_of_torch(torch, max_norm):
    """`compat.torch_optim.AdamW` against that of torch, also from the state of a fused one."""
    state = fastkeras.engines("optimizers")["torch_cuda"]
    if state != "ready":
        pytest.skip(state)
    from fastkeras.compat.torch_optim import AdamW

    torch.manual_seed(0)
    values = [torch.randn(shape, device="cuda") for shape in ((300, 7), (5,), (), (0, 2))]
    results = []
    for ours in (False, True):
        parameters = [torch.nn.Parameter(value.clone()) for value in values]
        groups = [{"params": [p], "lr": 0.1 * (i + 1)} for i, p in enumerate(parameters)]
        optimizer = torch.optim.AdamW(groups, fused=True)
        for step in range(3):
            if ours and step == 1:
                before = optimizer.state_dict()
                optimizer = AdamW(groups, max_norm=max_norm)
                optimizer.load_state_dict(before)
            for parameter in parameters:
                parameter.grad = torch.sin(parameter.detach() + step)
            if max_norm is not None and not isinstance(optimizer, AdamW):
                torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizer.step()
        results.append(parameters)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="a variable is on cpu"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(3))]})


def gradients_of_jax(jax, given):
    def value(*scores):
        return crf.log_likelihood(**(given | dict(zip(SCORES, scores, strict=True))))

    def both(*scores):
        gradient = jax.grad(lambda *x: value(*x).sum(), (0, 1, 2, 3))
        return value(*scores), *gradient(*scores)

    return both, [given[name] for name in SCORES]


@pytest.mark.parametrize("scale", (1.0, 300.0))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_of_jax(jax, shape, scale):
    chain = chain_of(shape, scale)
    given = {name: jax.numpy.asarray(x) for name, x in chain.items()}
    function, scores = gradients_of_jax(jax, given)
    lowered = jax.jit(function).lower(*scores)
    assert "fastkeras_cuda_plan" in lowered.as_text()
    compiled = jax.jit(function)
    for _ in range(3):  # XLA may record a CUDA graph at the second call
        results = compiled(*scores)
        assert all(device.platform == "gpu" for result in results for device in result.devices())
        assert_close(results, expected_of(chain), scale)


def test_jax_without_jit(jax):
    chain = chain_of(SHAPES[0])
    given = {name: jax.numpy.asarray(x) for name, x in chain.items()}
    function, scores = gradients_of_jax(jax, given)
    assert_close(function(*scores), expected_of(chain))
    wide = in_float64(chain)
    for each in (given, wide):
        del each["tags"]
    assert_close(crf.marginals(**given), crf.marginals(**wide, engine="reference"))
    assert_close(crf.viterbi(**given), crf.viterbi(**wide, engine="reference"))
    assert_close(crf.k_best(**given, k=3), crf.k_best(**wide, k=3, engine="reference"))


def test_vmap_of_jax(jax):
    chains = [chain_of(SHAPES[0], seed=seed) for seed in range(3)]
    chains = [chains[0] | {name: chain[name] for name in SCORES} for chain in chains]
    given = {name: jax.numpy.asarray(x) for name, x in chains[0].items()}
    function, _ = gradients_of_jax(jax, given)
    stacked = [np.stack([chain[name] for chain in chains]) for name in SCORES]
    results = jax.jit(jax.vmap(function))(*stacked)
    for i, chain in enumerate(chains):
        assert_close([result[i] for result in results], expected_of(chain))


def test_donated_arrays_of_jax(jax):
    chain = chain_of(SHAPES[0])
    given = {name: jax.numpy.asarray(x) for name, x in chain.items()}
    function, scores = gradients_of_jax(jax, given)
    step = jax.jit(lambda *x: [x + 0.1 * d for x, d in zip(x, function(*x)[1:], strict=True)])
    expected = step(*scores)
    donating = jax.jit(step, donate_argnums=(0, 1, 2, 3))
    for one, other in zip(donating(*[x.copy() for x in scores]), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_jax_on_the_cpu_beside_the_gpu(jax):
    """A program that is compiled for the CPU gets the kernels for CPUs."""
    chain = chain_of(SHAPES[0])
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        given = {name: jax.numpy.asarray(x) for name, x in chain.items()}
    given = jax.device_put(given, jax.local_devices(backend="cpu")[0])
    function, scores = gradients_of_jax(jax, given)
    for compute in (function, jax.jit(function)):
        assert_close(compute(*scores), expected_of(chain))


def test_an_optimizer_step_of_jax(jax):
    """Adam's rule in a compiled program whose arguments are donated, against float64."""
    state = fastkeras.engines("optimizers")["jax_cuda"]
    if state != "ready":
        pytest.skip(state)
    from fastkeras.optimizers._engines import jax_cuda
    from fastkeras.optimizers.step import no_extras

    rng, shapes = np.random.default_rng(0), ((300, 7), (5,), (5000,))
    values, gradients = (
        [rng.standard_normal(shape).astype("float32") for shape in shapes] for _ in range(2)
    )
    coefficients = np.tile(np.array([0.1, 0.1, 0.001, 1e-7], "float32"), (3, 1))
    still, decays = np.zeros(3, bool), np.zeros(3, "float32")

    def step(values, slots, gradients, coefficients):
        numbers = still, coefficients, decays, [()] * 3, no_extras(3)
        return jax_cuda.step("adam", values, gradients, slots, *numbers)[:2]

    slots = [[np.zeros_like(x) for _ in range(2)] for x in values]
    given = jax.tree.map(jax.numpy.asarray, (values, slots, gradients, coefficients))
    compiled = jax.jit(step, donate_argnums=(0, 1))
    new, _ = compiled(*given)
    assert all(x.is_deleted() for x in jax.tree.leaves(given[:2]))
    for value, gradient, parameter in zip(values, gradients, new, strict=True):
        wide = gradient.astype("float64")
        change = 0.1 * (0.1 * wide) / (np.sqrt(0.001 * wide**2) + 1e-7)
        np.testing.assert_allclose(parameter, value - change, rtol=1e-5, atol=1e-5)


def test_the_crf_of_pytorch_crf_stays_on_the_gpu(torch):
    from fastkeras.compat import torchcrf

    if torchcrf.LOG_LIKELIHOOD is None:
        pytest.skip("the C++ kernels, which define its ops, are not compiled here")
    chain = chain_of(SHAPES[0])
    chain["mask"][:] = True
    chain["mask"][:, 50:] = False
    given = on_gpu(torch, chain)
    model = torchcrf.CRF(SHAPES[0][2], batch_first=True).cuda()
    with torch.no_grad():
        for name in SCORES[1:]:
            getattr(model, name).copy_(given[name])
    emissions = given["emissions"].requires_grad_()
    value = model(emissions, given["tags"].long(), given["mask"], reduction="none")
    leaves = [emissions, *(getattr(model, name) for name in SCORES[1:])]
    gradients = torch.autograd.grad(value.sum(), leaves)
    del chain["lengths"]
    assert_close((value, *gradients), expected_of(chain))
    best = crf.viterbi(**{n: chain[n] for n in (*SCORES, "mask")}, engine="reference")[0]
    assert model.decode(emissions, given["mask"]) == best[:, :50].tolist()
