"""`compat.torch_optim.AdamW` against `torch.optim.AdamW`, step by step and state by state."""

import copy
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
            has_gradient = k != 1 or step % 2  # bias is corrected by each parameter's own steps
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


def test_keras_is_not_imported():
    code = "import sys, fastkeras.compat.torch_optim; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
