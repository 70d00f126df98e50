"""`compat.torch_optim.AdamW` against `torch.optim.AdamW`, step by step and state by state."""

import copy
import pickle
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="the optimizer is for torch's parameters")

from fastkeras.compat.torch_optim import AdamW  # noqa: E402

SHAPES = ((30, 7), (5,), (), (0, 2))


def groups(dtype=torch.float64):
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in SHAPES]
    of_first = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}
    return parameters, [{"params": parameters[:1], **of_first}, {"params": parameters[1:]}]


def train(optimizer, parameters, steps, scheduler=None):
    for step in range(steps):
        for k, parameter in enumerate(parameters):
            has_gradient = k != 1 or step % 2  # so parameters have had different numbers of steps
            parameter.grad = torch.sin(parameter.detach() + step) if has_gradient else None
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_parameters_and_state_are_those_of_torch(dtype, rtol):
    results = []
    for optimizer_class in (AdamW, torch.optim.AdamW):
        parameters, given = groups(dtype)
        optimizer = optimizer_class(given, lr=0.02)
        train(optimizer, parameters, 5, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
        results.append((parameters, optimizer.state_dict()["state"]))
    torch.testing.assert_close(*results, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("before", [AdamW, torch.optim.AdamW])
@pytest.mark.parametrize("after", [AdamW, torch.optim.AdamW])
def test_states_go_both_ways(before, after):
    parameters, given = groups()
    first = before(given)
    train(first, parameters, 3)
    others, given = groups()
    for other, parameter in zip(others, parameters, strict=True):
        other.data.copy_(parameter)
    second = after(given)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(first, parameters, 2)
    train(second, others, 2)
    torch.testing.assert_close(others, parameters, rtol=1e-12, atol=1e-12)


def test_a_closure_is_called_and_its_loss_returned():
    weights = torch.nn.Parameter(torch.ones(3))
    optimizer = AdamW([weights])

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 3
    assert (weights < 1).all()
    optimizer.zero_grad()
    assert optimizer.step() is None  # nothing has a gradient


@pytest.mark.parametrize(("argument", "value"), [
    ("lr", -1.0), ("lr", float("nan")), ("eps", -1e-8), ("weight_decay", -0.1),
    ("betas", (0.9, 1.0)), ("betas", (0.9,)),
])  # fmt: skip
def test_arguments_out_of_range_are_named(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must be"):
        AdamW([torch.nn.Parameter(torch.ones(3))], **{argument: value})


def test_what_the_kernels_cannot_take_is_refused():
    def parameter(tensor):
        return torch.nn.Parameter(tensor)

    for tensor, message in (
        (torch.ones(3, dtype=torch.bfloat16), "parameters must be float32 or float64, got torch.b"),
        (torch.ones(3, 4).t(), "a variable is not contiguous: use torch.optim.AdamW"),
        (torch.ones(3, device="meta"), "a variable is on meta"),
    ):
        with pytest.raises(ValueError, match=message):
            AdamW([parameter(tensor)])
    weights = parameter(torch.ones(3, 2))
    optimizer = AdamW([weights])
    with pytest.raises(ValueError, match="betas must be"):
        optimizer.add_param_group({"params": [parameter(torch.ones(2))], "betas": (2, 2)})
    assert len(optimizer.param_groups) == 1
    weights.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(ValueError, match="gradients must be dense"):
        optimizer.step()
    theirs = torch.optim.AdamW([weights], amsgrad=True).state_dict()
    with pytest.raises(ValueError, match="state_dict has amsgrad=True"):
        optimizer.load_state_dict(theirs)


def of_torch(parameters, **settings):
    """Return copies of the parameters, and torch's optimizer of them."""
    others = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    return others, torch.optim.AdamW(others, **settings)


def both_step(parameters, others, *optimizers, gradient=torch.cos):
    for parameter, other in zip(parameters, others, strict=True):
        parameter.grad, other.grad = (gradient(parameter.detach()) for _ in range(2))
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(
        list(map(torch.Tensor.detach, parameters)), [*others], rtol=1e-12, atol=1e-12
    )


def test_the_norm_of_all_gradients_is_limited():
    parameters, given = groups()
    others, theirs = of_torch(parameters)
    theirs = torch.optim.AdamW(
        [{**given[0], "params": others[:1]}, {"params": others[1:]}], lr=1e-3
    )
    ours = AdamW(given, lr=1e-3, max_norm=0.5)
    for scale in (1.0, 1e-3, 3.0):
        for parameter, other in zip(parameters, others, strict=True):
            parameter.grad, other.grad = (scale * torch.sin(parameter.detach()) for _ in range(2))
        torch.nn.utils.clip_grad_norm_(others, 0.5)  # adds 1e-6 to the norm
        before = [p.grad.clone() for p in parameters]
        ours.step()
        theirs.step()
        torch.testing.assert_close([p.grad for p in parameters], before, rtol=0, atol=0)
        torch.testing.assert_close(parameters, others, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="max_norm must be above 0"):
        AdamW(parameters, max_norm=0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_goes_on_alone(copied):
    parameters, given = groups()
    first = AdamW(given, max_norm=0.5)
    train(first, parameters, 2)
    second = copied(first)
    others = [p for group in second.param_groups for p in group["params"]]
    assert second.max_norm == 0.5
    before = [p.detach().clone() for p in parameters]
    train(second, others, 2)
    torch.testing.assert_close(list(map(torch.Tensor.detach, parameters)), before, rtol=0, atol=0)
    train(first, parameters, 2)
    torch.testing.assert_close(others, parameters, rtol=0, atol=0)


def test_memory_that_was_replaced_is_not_touched_again():
    parameters = [torch.nn.Parameter(torch.randn(n, 3, dtype=torch.float64)) for n in (4, 2)]
    others, theirs = of_torch(parameters)
    ours = AdamW(parameters)
    both_step(parameters, others, ours, theirs)
    old = parameters[0].data
    kept = old.clone()
    for of_both in (parameters, others):
        of_both[0].data = torch.ones(4, 3, dtype=torch.float64)
    for optimizer, of_one in ((ours, parameters), (theirs, others)):
        optimizer.state[of_one[1]]["exp_avg"] = torch.ones(2, 3, dtype=torch.float64)
        optimizer.state[of_one[0]]["step"].fill_(7)
    both_step(parameters, others, ours, theirs)
    torch.testing.assert_close(old, kept, rtol=0, atol=0)
    state = copy.deepcopy(theirs.state_dict())
    ours.load_state_dict(state)
    both_step(parameters, others, ours, theirs)
    for optimizer, of_one in ((ours, parameters), (theirs, others)):
        optimizer.state[of_one[0]] = {}
    both_step(parameters, others, ours, theirs)


def test_gradients_of_any_layout():
    parameters = [torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64))]
    others, theirs = of_torch(parameters)
    ours = AdamW(parameters)
    for gradient in (
        lambda p: torch.cos(p).t().contiguous().t(),
        lambda p: torch.ones(3, dtype=torch.float64).expand(4, 3),
        lambda p: torch.cos(p).flip(0).flip(0)[:, :],
    ):
        both_step(parameters, others, ours, theirs, gradient=gradient)
    weights = torch.nn.Parameter(torch.ones(3))
    weights.grad = weights.data  # the same memory
    AdamW([weights], lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(weights.detach(), torch.full((3,), 0.9))


def test_what_comes_to_be_impossible_leaves_all_as_it_was():
    for moment, message in (
        (torch.ones(3, 2).t(), "a variable is not contiguous"),
        (torch.ones(2, 3, device="meta"), "a variable is on meta"),
        (torch.ones(2, 3, dtype=torch.complex64), "a variable is of torch.complex64"),
    ):
        parameters = [torch.nn.Parameter(torch.ones(n, 3)) for n in (4, 2)]
        optimizer = AdamW(parameters)
        train(optimizer, parameters, 2)
        before = [p.detach().clone() for p in parameters]
        number = optimizer.state[parameters[0]]["step"].item()
        optimizer.state[parameters[1]]["exp_avg"] = moment
        with pytest.raises(ValueError, match=f"{message}.*: use torch.optim.AdamW"):
            optimizer.step()
        assert optimizer.state[parameters[0]]["step"].item() == number
        torch.testing.assert_close(parameters[0].detach(), before[0], rtol=0, atol=0)


def test_a_torch_that_does_not_exchange_tensors(monkeypatch):
    from fastkeras.compat import torch_optim
    from fastkeras.optimizers._engines import torch_native

    def refused(*_):
        raise TypeError

    results = []
    for exchanged in (True, False):
        monkeypatch.setattr(torch_native, "EXCHANGED", exchanged)
        if not exchanged:
            monkeypatch.setattr(torch_optim._core, "optimizer_count", refused)
        parameters, given = groups()
        optimizer = AdamW(given)
        train(optimizer, parameters, 3)
        results.append((parameters, optimizer.state_dict()["state"]))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_autograd_finds_out():
    weights = torch.nn.Parameter(torch.ones(3))
    optimizer = AdamW([weights])
    loss = weights.square().sum()
    weights.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_keras_is_not_imported():
    code = "import sys, fastkeras.compat.torch_optim; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_moments_may_lie_in_a_file(tmp_path):
    from fastkeras.optimizers import slots_on_disk

    ours, theirs = (groups(torch.float32)[0] for _ in range(2))
    optimizer = AdamW(ours, lr=0.02)
    slots = slots_on_disk("adam", [p.detach().numpy() for p in ours], tmp_path)
    for parameter, moments in zip(ours, slots, strict=True):
        names = zip(("exp_avg", "exp_avg_sq"), map(torch.from_numpy, moments), strict=True)
        optimizer.state[parameter] = {"step": torch.tensor(0.0), **dict(names)}
    train(optimizer, ours, 3)
    train(AdamW(theirs, lr=0.02), theirs, 3)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert slots[0][0].any()  # the steps were done in the file
