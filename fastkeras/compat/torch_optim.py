"""`torch.optim.AdamW`, with one call of the kernels a step; it needs torch, and not Keras."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from fastkeras import _core, _engines
from fastkeras._arrays import NUMPY
from fastkeras.compat import _torch_moments as moments
from fastkeras.optimizers import rounding
from fastkeras.optimizers._engines.torch_tensors import CPU, why_not
from fastkeras.optimizers.quantization import LAYOUT, check_layout, is_worth_it
from fastkeras.optimizers.rules import check_moment_bits
from fastkeras.optimizers.step import no_extras
from fastkeras.optimizers.transforms import clip_by_global_norm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_DTYPES = (torch.float32, torch.float64)
_MEANING = "moment_codes"  # key under which it is saved what codes mean


class AdamW(torch.optim.Optimizer):
    """AdamW for parameters on the CPU or on a GPU: all parameters of all groups in one call.

    On a GPU of NVIDIA, which takes CuPy, the call is one launch for all parameters and rates, or
    three with `max_norm`. The formula is that of `torch.optim.AdamW`, and so are the names in
    `state_dict`: each can load the state of the other.

    Args:
        params: an iterable of parameters, float32 or float64, contiguous and all on one device; or
            of dicts, the groups, whose other entries replace the arguments below.
        lr: the learning rate, at least 0.
        betas: the decay of the two moments, each at least 0 and below 1.
        eps: at least 0.
        weight_decay: decoupled: a parameter loses the share `lr · weight_decay` of its value; at
            least 0.
        max_norm: in the same call, scale all gradients down so that their common norm is at most
            this, but without changing `.grad`. It replaces `torch.nn.utils.clip_grad_norm_`. None
            for no limit.
        moment_bits: 16 or 8 keep the moments of float32 parameters of at least 4,096 numbers in
            two or about one byte each, rounded at random by the number of the step and the place:
            as bfloat16, or as codes (`exp_avg_codes`, `exp_avg_scales` and so on in the state).
            A state that was saved with other bits is loaded into these, to the nearest;
            `torch.optim.AdamW` can load all but codes.

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

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        max_norm: float | None = None,
        moment_bits: int = 32,
    ) -> None:
        if max_norm is not None and not 0 < float(max_norm) < math.inf:
            raise ValueError(f"max_norm must be above 0 and finite, or None, got {max_norm!r}")
        self.max_norm = None if max_norm is None else float(max_norm)
        check_moment_bits("adam", moment_bits)
        self.moment_bits = moment_bits
        given = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, given)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as `torch.optim.Optimizer` does; its parameters are checked."""
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1], self.param_groups[0]["params"])
        except ValueError:
            del self.param_groups[-1]
            raise

    def state_dict(self) -> dict[str, Any]:
        """Return the state as `torch.optim.Optimizer` does; of 8 bits, with what codes mean."""
        found = super().state_dict()
        if any(map(moments.are_codes, found["state"].values())):
            found[_MEANING] = LAYOUT.tolist()
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, also one of `torch.optim.AdamW` without `amsgrad` and `maximize`.

        Raises:
            ValueError: the state is one with `amsgrad` or `maximize`, of other parameters, or of
                codes that mean other numbers than those of this version.
        """
        for group in state_dict["param_groups"]:
            for name in ("amsgrad", "maximize"):
                if group.get(name):
                    raise ValueError(f"state_dict has {name}=True, which this AdamW does not do")
        saved = state_dict["state"]
        if any(map(moments.are_codes, saved.values())):
            check_layout(state_dict.get(_MEANING))
        super().load_state_dict(state_dict)
        groups = zip(state_dict["param_groups"], self.param_groups, strict=True)
        for of_saved, group in groups:  # torch has cast all to the dtype of the parameter
            for key, parameter in zip(of_saved["params"], group["params"], strict=True):
                if saved.get(key):
                    step = self.state[parameter]["step"]
                    own = moments.converted(saved[key], self._bits_of(parameter), parameter)
                    self.state[parameter] = {"step": step, **own}

    def __getstate__(self):
        own = {"max_norm": self.max_norm, "moment_bits": self.moment_bits}
        return {**super().__getstate__(), **own}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; return what `closure` returns, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found = [
            (p, gradient, group)
            for group in self.param_groups
            for p in group["params"]
            if (gradient := p.grad) is not None
        ]
        if not found:
            return loss
        of_all = self.state
        states = [of_all[p] or self._new_state_of(p) for p, _, _ in found]
        numbers = _count(states, 1.0)
        try:
            self._update(found, states, numbers)
        except Exception as error:  # nothing else has changed yet
            _count(states, -1.0)
            if any(gradient.layout is not torch.strided for _, gradient, _ in found):
                what = "gradients must be dense: make them so with .to_dense()"
                raise ValueError(what) from error
            tensors = [p for p, _, _ in found] + [x for s in states for x in moments.of(s)]
            reason = why_not(tensors, _device_of([found[0][0]]))
            if reason is None:
                raise
            raise ValueError(_not_in_place(reason)) from error
        return loss

    def _update(self, found, states, numbers):
        places = {}  # most are at the same step, of few groups
        place_of = [
            places.setdefault((number, id(group)), len(places))
            for number, (_, _, group) in zip(numbers, found, strict=True)
        ]
        groups = {id(group): group for group in self.param_groups}
        rows = np.array([_coefficients(number, groups[key]) for number, key in places])[place_of]
        chain = () if self.max_norm is None else (clip_by_global_norm(self.max_norm),)
        extras = no_extras(len(found))
        if self.moment_bits != 32:
            extras = extras._replace(seeds=self._seeds([p for p, _, _ in found], numbers))
        _engine_for(found[0][0].device).step(
            "adam",
            [p for p, _, _ in found],
            [gradient for _, gradient, _ in found],
            moments.of_all(states),
            np.zeros(len(found), bool),
            rows[:, 1:],
            rows[:, 0],
            [chain] * len(found),
            extras,
        )

    def _seeds(self, parameters, numbers):
        """Those of random bits: of each parameter's step, and of its place among all of them."""
        every = (p for group in self.param_groups for p in group["params"])
        places = {id(p): place for place, p in enumerate(every)}
        positions = np.array([places[id(p)] for p in parameters], "int32")
        return rounding.seeds(NUMPY, np.array(numbers).astype("int32"), positions)

    def _bits_of(self, parameter):
        is_narrow = parameter.dtype is torch.float32 and is_worth_it(parameter.shape)
        return self.moment_bits if is_narrow else 32

    def _new_state_of(self, parameter):
        state = self.state[parameter]
        state |= {"step": torch.tensor(0.0), **moments.zeros(self._bits_of(parameter), parameter)}
        return state


def _count(states, by):
    """Add to the step of each state; return the steps as numbers."""
    try:
        return _core.optimizer_count([state["step"] for state in states], by)
    except (TypeError, ValueError):  # an old torch without tensor exchange, or an old state, or
        for state in states:  # that of a fused torch.optim.AdamW, on a GPU
            state["step"] = torch.as_tensor(state["step"], device=CPU) + by
        return [float(state["step"]) for state in states]


def _engine_for(device):
    family = "torch" if device.type == "cpu" else "torch_elsewhere"
    engine = "torch_native" if device.type == "cpu" else "torch_cuda"
    return _engines.engine_of_family("optimizers", family, engine)


def _device_of(parameters):
    """The device where kernels can update these: that of the first, or the CPU."""
    device = next((p.device for p in parameters), CPU)
    return device if device.type == "cuda" else CPU


def _not_in_place(reason):
    return f"AdamW updates in place, but {reason}: use torch.optim.AdamW"


def _coefficients(number, group):
    """The decay, and the coefficients of the rule "adam", which adds epsilon before correcting."""
    beta_1, beta_2 = map(float, group["betas"])
    unbias = math.sqrt(1 - beta_2**number)
    rate = float(group["lr"]) * unbias / (1 - beta_1**number)
    decay = float(group["lr"]) * group["weight_decay"]
    return decay, rate, 1 - beta_1, 1 - beta_2, group["eps"] * unbias


def _check(group, first):
    for name in ("lr", "eps", "weight_decay"):
        if not 0 <= float(group[name]) < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {group[name]!r}")
    betas = group["betas"]
    if len(betas) != 2 or not all(0 <= float(beta) < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers, at least 0 and below 1, got {betas!r}")
    for parameter in group["params"]:
        if parameter.dtype not in _DTYPES:
            raise ValueError(f"parameters must be float32 or float64, got {parameter.dtype}")
    device = _device_of(first)
    reason = why_not(group["params"], device)
    if reason is None and device.type == "cuda":
        state = _engines.engines("optimizers")["torch_cuda"]
        reason = None if state == "ready" else f"a variable is on {device}, and {state}"
    if reason is not None:
        raise ValueError(_not_in_place(reason))
