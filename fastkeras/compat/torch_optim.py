"""`torch.optim.AdamW`, with one call of the C++ kernels a step; it needs torch, and not Keras."""

import math

import numpy as np
import torch

from fastkeras.optimizers._engines import torch_native
from fastkeras.optimizers.step import no_extras

_DTYPES = (torch.float32, torch.float64)
_MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW(torch.optim.Optimizer):
    """AdamW for parameters on the CPU: all parameters of all groups in one call.

    The formula is that of `torch.optim.AdamW`, and so are the names in `state_dict`, which goes
    both ways.

    Args:
        params: an iterable of parameters, float32 or float64, contiguous and on the CPU; or of
            dicts, the groups, whose other entries replace the arguments below.
        lr: the learning rate, at least 0.
        betas: the decay of the two moments, each at least 0 and below 1.
        eps: at least 0.
        weight_decay: decoupled: a parameter loses `lr · weight_decay` of itself; at least 0.

    Raises:
        ValueError: an argument is out of range, the kernels cannot update a parameter in place, or
            a gradient is sparse.

    Example:
        >>> import torch
        >>> from fastkeras.compat.torch_optim import AdamW
        >>> weights = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = AdamW([weights], lr=0.1, weight_decay=0.0)
        >>> weights.sum().backward()
        >>> optimizer.step()
        >>> weights.detach().numpy().round(4).tolist()
        [0.8999999761581421, 0.8999999761581421, 0.8999999761581421]

    Source: Loshchilov & Hutter, 2019, "Decoupled weight decay regularization".
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        given = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, given)

    def add_param_group(self, param_group):
        """Add a group, as `torch.optim.Optimizer` does; its parameters are checked."""
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except ValueError:
            del self.param_groups[-1]
            raise

    def load_state_dict(self, state_dict):
        """Take over a state, also one of `torch.optim.AdamW` without `amsgrad` and `maximize`."""
        for group in state_dict["param_groups"]:
            for name in ("amsgrad", "maximize"):
                if group.get(name):
                    raise ValueError(f"state_dict has {name}=True, which this AdamW does not do")
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure=None):
        """Update all parameters that have a gradient; return what `closure` returns, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found = [(p, group) for group in self.param_groups for p in group["params"]]
        found = [(p, group) for p, group in found if p.grad is not None]
        if not found:
            return loss
        parameters = [p for p, _ in found]
        for parameter in parameters:
            if parameter.grad.layout is not torch.strided:
                raise ValueError("gradients must be dense: make them so with .to_dense()")
        slots = [[self._state_of(p)[name] for name in _MOMENTS] for p in parameters]
        reason = torch_native.why_not([*parameters, *(s for pair in slots for s in pair)])
        if reason is not None:
            raise ValueError(f"AdamW updates in place, but {reason}: use torch.optim.AdamW")
        numbers = [float(self.state[p]["step"]) + 1 for p in parameters]
        pairs = zip(numbers, (group for _, group in found), strict=True)
        torch_native.step(
            "adam",
            parameters,
            [p.grad for p in parameters],
            slots,
            np.zeros(len(found), bool),
            np.array([_coefficients(number, group) for number, group in pairs]),
            np.array([float(g["lr"]) * g["weight_decay"] for _, g in found]),
            [()] * len(found),
            no_extras(len(found)),
        )
        for parameter in parameters:
            self.state[parameter]["step"] += 1
        return loss

    def _state_of(self, parameter):
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            for name in _MOMENTS:
                like = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
                state[name] = like.detach()
        return state


def _coefficients(number, group):
    """Those of the rule "adam", which adds epsilon before the second moment is corrected."""
    beta_1, beta_2 = map(float, group["betas"])
    unbias = math.sqrt(1 - beta_2**number)
    rate = float(group["lr"]) * unbias / (1 - beta_1**number)
    return rate, 1 - beta_1, 1 - beta_2, group["eps"] * unbias


def _check(group):
    for name in ("lr", "eps", "weight_decay"):
        if not 0 <= float(group[name]) < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {group[name]!r}")
    betas = group["betas"]
    if len(betas) != 2 or not all(0 <= float(beta) < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers, at least 0 and below 1, got {betas!r}")
    for parameter in group["params"]:
        if parameter.dtype not in _DTYPES:
            raise ValueError(f"parameters must be float32 or float64, got {parameter.dtype}")
    reason = torch_native.why_not(group["params"])
    if reason is not None:
        raise ValueError(f"AdamW updates in place, but {reason}: use torch.optim.AdamW")
