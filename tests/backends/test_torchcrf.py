"""`compat.torchcrf.CRF` against enumeration and pytorch-crf, and under what torch transforms."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from enumeration import enumerate_paths, probabilities

# NumPy 2 complains about np.array(tensor), by which Keras on torch makes arrays
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:where received a uint8:UserWarning"),  # of pytorch-crf
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),  # raised by torch itself
]

BATCH, STEPS, NUM_TAGS = 4, 5, 3
LENGTHS = np.array([5, 3, 1, 4])
MASK = np.arange(STEPS) < LENGTHS[:, None]
REDUCTIONS = ("none", "sum", "mean", "token_mean")


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="pytorch-crf's CRF is for torch")


def arguments(torch, rng, dtype="float32", batch_first=True):
    """Emissions, tags and mask as tensors."""
    arrays = (
        rng.normal(size=(BATCH, STEPS, NUM_TAGS)),
        rng.integers(NUM_TAGS, size=(BATCH, STEPS)),
        MASK,
    )
    emissions, tags, mask = (
        torch.from_numpy(a if batch_first else a.swapaxes(0, 1)) for a in arrays
    )
    return emissions.to(getattr(torch, dtype)).requires_grad_(), tags, mask


def model_of(batch_first=True):
    from fastkeras.compat.torchcrf import CRF

    return CRF(NUM_TAGS, batch_first)


def exact(model, emissions, tags, mask):
    """Log-likelihoods and best paths by enumeration."""
    chain = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    chain |= {"emissions": emissions.detach().double().numpy(), "lengths": None}
    chain["mask"] = mask.numpy()
    values, best = [], []
    for b, (steps, paths, scores) in enumerate(enumerate_paths(chain)):
        given = (paths == tags.numpy()[b, steps]).all(axis=1)
        values.append(float(scores[given][0] - probabilities(scores)[0]))
        best.append(paths[scores.argmax()].tolist())
    return np.array(values), best


@pytest.mark.parametrize("with_a_hole", (False, True))
@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32", "float64"))
def test_values_of_the_torch_module_are_those_of_enumeration(dtype, with_a_hole, torch, rng):
    emissions, tags, mask = arguments(torch, rng, dtype)
    if with_a_hole:
        mask = mask.clone()
        mask[0, 2] = False
        tags[0, 2] = -100
    model = model_of()
    values, best = exact(model, emissions, tags, mask)
    result = model(emissions, tags, mask, reduction="none")
    assert result.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    np.testing.assert_allclose(result.detach().numpy(), values, rtol=2e-6)
    assert model.decode(emissions, mask.byte()) == best
    means = {"sum": values.sum(), "mean": values.mean(), "token_mean": values.sum() / mask.sum()}
    for reduction, expected in means.items():
        value = model(emissions, tags, mask, reduction).item()
        np.testing.assert_allclose(value, expected, rtol=2e-6)


@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("batch_first", (False, True))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_torch_module_is_pytorch_crf(reduction, batch_first, masked, torch, rng):
    torchcrf = pytest.importorskip("torchcrf", reason="pytorch-crf is not installed")
    peer, own = torchcrf.CRF(NUM_TAGS, batch_first), model_of(batch_first)
    own.load_state_dict(peer.state_dict())
    assert repr(own) == repr(peer)
    emissions, tags, mask = arguments(torch, rng, "float64", batch_first)
    mask = mask if masked else None
    values, gradients = [], []
    for module in (own.double(), peer.double()):
        value = module(emissions, tags, mask, reduction)
        scores = (emissions, *(dict(module.named_parameters())[n] for n in peer.state_dict()))
        weights = torch.arange(1.0, BATCH + 1).double() if value.ndim else None
        values.append(value)
        gradients.append(torch.autograd.grad(value, scores, weights))
    torch.testing.assert_close(*values)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert own.decode(emissions, mask) == peer.decode(emissions, mask)


def test_parameters_begin_as_those_of_pytorch_crf(torch):
    model = model_of()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {
        "start_transitions": (NUM_TAGS,),
        "end_transitions": (NUM_TAGS,),
        "transitions": (NUM_TAGS, NUM_TAGS),
    }
    parameters = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert 0 < parameters.abs().max() <= 0.1


def test_second_derivatives_of_the_torch_module(torch, rng):
    emissions, tags, mask = arguments(torch, rng, "float64")
    model = model_of().double()

    def value(emissions, transitions):
        parameters = {**dict(model.named_parameters()), "transitions": transitions}
        return torch.func.functional_call(
            model, parameters, (emissions, tags, mask), {"reduction": "none"}
        )

    scores = (emissions, model.transitions)
    inputs = [s.detach().requires_grad_() for s in scores]
    assert torch.autograd.gradgradcheck(value, inputs)
    assert torch.autograd.gradcheck(value, inputs)


def transformed_problem(torch, rng, dtype="float64"):
    """A module, and its likelihoods as a function of emissions and transitions."""
    emissions, tags, mask = arguments(torch, rng, dtype)
    mask = mask.clone()
    mask[0, 2] = False  # a hole
    tags[~mask] = -100
    model = model_of().to(getattr(torch, dtype))
    parameters = dict(model.named_parameters())

    def value(emissions, transitions):
        given = {**parameters, "transitions": transitions}
        return torch.func.functional_call(
            model, given, (emissions, tags, mask), {"reduction": "none"}
        )

    return model, value, (emissions.detach(), model.transitions.detach()), tags, mask


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_transforms_of_torch_func_find_what_the_kernel_finds(dtype, torch, rng):
    _, value, inputs, _, _ = transformed_problem(torch, rng, dtype)
    by_kernel = torch.autograd.functional.jacobian(value, inputs)
    tolerance = (
        {"rtol": 1e-9, "atol": 1e-11} if dtype == "float64" else {"rtol": 1e-5, "atol": 1e-6}
    )
    close = lambda a, b: torch.testing.assert_close(a, b, **tolerance)  # noqa: E731
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        for ours, expected in zip(jacobian(value, (0, 1))(*inputs), by_kernel, strict=True):
            close(ours, expected)
    gradients = torch.func.grad(lambda *x: value(*x).sum(), (0, 1))(*inputs)
    for ours, expected in zip(gradients, by_kernel, strict=True):
        close(ours, expected.sum(0))
    tangents = tuple(torch.from_numpy(rng.normal(size=x.shape)).to(x.dtype) for x in inputs)
    along = sum((j * t).flatten(1).sum(1) for j, t in zip(by_kernel, tangents, strict=True))
    primal, tangent = torch.func.jvp(value, inputs, tangents)
    close(primal, value(*inputs))
    close(tangent, along)
    forward = torch.autograd.forward_ad
    with forward.dual_level():
        duals = map(forward.make_dual, inputs, tangents)
        close(forward.unpack_dual(value(*duals)).tangent, along)
    hessian = torch.func.hessian(lambda *x: value(*x).sum(), (0, 1))(*inputs)
    expected = torch.autograd.functional.hessian(lambda *x: value(*x).sum(), inputs)
    for row, expected_row in zip(hessian, expected, strict=True):
        for ours, block in zip(row, expected_row, strict=True):
            close(ours, block)


def test_a_map_over_models_and_over_masks_is_a_loop(torch, rng):
    model, value, (emissions, transitions), tags, mask = transformed_problem(torch, rng)
    several = torch.stack([emissions, 2 * emissions, -emissions])
    expected = torch.stack([value(e, transitions) for e in several])
    torch.testing.assert_close(torch.vmap(value, (0, None))(several, transitions), expected)
    per_sequence = torch.vmap(torch.func.grad(lambda e, y, m: model(e[None], y[None], m[None])))(
        emissions, tags, mask
    )
    for i in range(BATCH):
        alone = emissions[i : i + 1].clone().requires_grad_()
        model(alone, tags[i : i + 1], mask[i : i + 1]).backward()
        torch.testing.assert_close(per_sequence[i], alone.grad[0])


def test_impossible_sequences_and_not_a_number_are_as_in_the_kernel(torch, rng):
    _, value, (emissions, transitions), tags, _ = transformed_problem(torch, rng)
    transitions = transitions.clone()
    transitions[tags[0, 0], tags[0, 1]] = -torch.inf
    emissions[1, 0, 0] = torch.nan
    found = torch.func.vjp(value, emissions, transitions)[0]
    others = [0, 2, 3]
    torch.testing.assert_close(found[others], value(emissions, transitions)[others])
    jacobian = torch.func.jacrev(value)(emissions, transitions)
    assert found[0] == -torch.inf and found[1].isnan() and jacobian[1, 1].isnan().any()
    assert not jacobian[2:][:, others].isnan().any()


def test_scripts_traces_and_exports_compute_the_same_elsewhere(torch, rng, tmp_path):
    model, _, (emissions, _), tags, mask = transformed_problem(torch, rng)
    others = torch.from_numpy(rng.normal(size=emissions.shape))
    expected = model(others, tags, mask)
    script = torch.jit.script(model)
    script.save(tmp_path / "script.pt")
    code = (
        f"import torch, fastkeras.compat.torchcrf; torch.jit.load({str(tmp_path / 'script.pt')!r})"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    script = torch.jit.load(tmp_path / "script.pt")
    trace = torch.jit.trace(model, (emissions, tags, mask))
    trace.save(tmp_path / "trace.pt")
    exported = torch.export.export(model, (emissions, tags, mask)).module()
    trace = torch.jit.load(tmp_path / "trace.pt")
    for compiled in (script, trace):
        assert "fastkeras::crf_value" in str(compiled.inlined_graph)
    assert torch.ops.fastkeras.crf_value.default in {node.target for node in exported.graph.nodes}
    leaf = others.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf, tags, mask), leaf)
    for compiled in (script, trace, exported):
        torch.testing.assert_close(compiled(others, tags, mask), expected)
        (found,) = torch.autograd.grad(compiled(leaf, tags, mask), leaf)
        torch.testing.assert_close(found, gradient, rtol=0, atol=0)
        compiled(others, tags, mask).backward()
        of_parameters = [p.grad for p in compiled.parameters()]
        assert len(of_parameters) == 3 and all(g.any() for g in of_parameters)
    for reduction in REDUCTIONS:
        ours, expected = (m(others, tags.clamp(0), None, reduction) for m in (script, model))
        torch.testing.assert_close(ours, expected)
    with pytest.raises(torch.jit.Error, match="reduction must be none, sum, mean or token_mean"):
        script(others, tags, mask, "product")
    with pytest.raises(torch.jit.Error, match="mask must be on at the first step"):
        script(others, tags, mask.flip(1))
    with pytest.raises(RuntimeError, match=r"tags must be in 0\.\.2"):
        script(others, tags.clamp(0) + 2**32, mask)


def test_the_torch_module_is_compiled_as_one_graph(torch, rng):
    model, _, (emissions, _), tags, mask = transformed_problem(torch, rng)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = []
    for module in (compiled, model):
        value = module(emissions, tags, mask, "token_mean")
        results.append((value, *torch.autograd.grad(value, list(model.parameters()))))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_first_derivatives_come_from_the_kernels(torch, rng, monkeypatch):
    from fastkeras.compat import torchcrf

    model, value, inputs, tags, mask = transformed_problem(torch, rng)
    monkeypatch.delattr(torchcrf, "_composed")
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(value(*leaves).sum(), leaves)
    found = torch.func.grad(lambda *x: value(*x).sum(), (0, 1))(*inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.func.jacrev(value)(*inputs)
    torch.func.vmap(torch.func.grad(lambda e, y, m: model(e[None], y[None], m[None])))(
        inputs[0], tags, mask
    )
    with torch.no_grad():
        torch.testing.assert_close(value(*inputs), value(*leaves))


def test_all_is_composed_where_nothing_was_compiled(torch, rng, monkeypatch):
    from fastkeras.compat import torchcrf

    model, value, inputs, tags, mask = transformed_problem(torch, rng)
    gradients = torch.func.grad(lambda *x: value(*x).sum(), (0, 1))
    expected = model(inputs[0], tags, mask), *gradients(*inputs)
    monkeypatch.setitem(sys.modules, "fastkeras.crf._engines.torch_native", None)
    spec = importlib.util.spec_from_file_location("composed_torchcrf", torchcrf.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "composed_torchcrf", module)
    spec.loader.exec_module(module)
    composed = module.CRF(NUM_TAGS, True).double()
    composed.load_state_dict(model.state_dict())
    monkeypatch.setattr(type(model), "forward", module.CRF.forward)
    found = model(inputs[0], tags, mask), *gradients(*inputs)
    torch.testing.assert_close(found, expected)
    script = torch.jit.script(composed)
    assert "fastkeras::" not in str(script.inlined_graph)
    torch.testing.assert_close(script(inputs[0], tags, mask), expected[0])


def test_best_tags_can_be_had_under_a_transform(torch, rng):
    model, _, (emissions, _), tags, mask = transformed_problem(torch, rng)
    found = []

    def value(emissions):
        found.append(model.decode(emissions, mask))
        return model(emissions, tags, mask)

    torch.func.grad(value)(emissions)
    assert found == [model.decode(emissions, mask)]


EXPECTED = {
    "emissions of two dimensions": "emissions must have 3 dimensions, the last 3, got",
    "emissions of more tags": "emissions must have 3 dimensions, the last 3, got",
    "tags of fewer steps": "tags must have the first two dimensions of emissions",
    "mask of fewer steps": "mask must have the first two dimensions of emissions",
    "mask that begins late": "mask must be on at the first step of every sequence",
    "reduction": "reduction must be none, sum, mean or token_mean, got 'product'",
    "emissions of NumPy": "emissions must be a tensor of torch, got ndarray",
    "tags of a list": "tags must be a tensor of torch, got list",
    "tags of floats": "tags must be integers, got torch.float32",
    "tags out of range": r"tags must be in 0\.\.2",
    "complex emissions": "emissions must be real numbers, got torch.complex64",
}


@pytest.mark.parametrize("wrong", EXPECTED)
def test_wrong_arguments_of_the_torch_module_are_named(wrong, torch, rng):
    emissions, tags, mask = arguments(torch, rng)
    change = {
        "emissions of two dimensions": {"emissions": emissions[0]},
        "emissions of more tags": {"emissions": torch.cat([emissions, emissions], dim=2)},
        "tags of fewer steps": {"tags": tags[:, 1:]},
        "mask of fewer steps": {"mask": mask[:, 1:]},
        "mask that begins late": {"mask": mask.flip(1)},
        "reduction": {"reduction": "product"},
        "emissions of NumPy": {"emissions": emissions.detach().numpy()},
        "tags of a list": {"tags": tags.tolist()},
        "tags of floats": {"tags": tags.float()},
        "tags out of range": {"tags": tags + 2**32},
        "complex emissions": {"emissions": emissions.to(torch.complex64)},
    }[wrong]
    with pytest.raises(ValueError, match=EXPECTED[wrong]):
        model_of()(**{"emissions": emissions, "tags": tags, "mask": mask, **change})


def test_there_is_at_least_one_tag(torch):
    from fastkeras.compat.torchcrf import CRF

    with pytest.raises(ValueError, match="num_tags=0 must be an integer of at least 1"):
        CRF(0)
