"""pytorch-crf's `CRF`, computed by the kernels for NumPy arrays; it needs torch, and not Keras."""

import numbers

import numpy as np
import torch

from fastkeras import crf

NAMES = ("emissions", "transitions", "start_transitions", "end_transitions")


class CRF(torch.nn.Module):
    """Linear-chain CRF with the parameters of pytorch-crf, hence with its `state_dict`.

    Args:
        num_tags: number of tags.
        batch_first: whether tensors are (batch, steps, …) rather than (steps, batch, …).

    A mask may have holes, which the chain bridges, but must not begin with a masked step. Results
    are at least float32. Tensors on other devices are computed on the CPU.

    Under `torch.func` (grad, vmap, jvp, …), `torch.jit.script` and `trace` and `torch.export` the
    log-likelihood is composed of torch operations, and a mask that begins with a masked step is not
    refused. Second derivatives are always composed of torch operations.

    Example:
        >>> import torch
        >>> from fastkeras.compat.torchcrf import CRF
        >>> model = CRF(3, batch_first=True)
        >>> loss = -model(torch.zeros(2, 5, 3), torch.ones(2, 5, dtype=torch.long))
        >>> loss.backward()
        >>> model.transitions.grad.shape
        torch.Size([3, 3])
        >>> model.decode(torch.eye(3)[None] * 9)
        [[0, 1, 2]]

    Source: torchcrf, 0.7.2.
    """

    def __init__(self, num_tags, batch_first=False):
        if not isinstance(num_tags, numbers.Integral) or num_tags < 1:
            raise ValueError(f"num_tags must be at least 1, got {num_tags!r}")
        super().__init__()
        self.num_tags = num_tags
        self.batch_first = batch_first
        self.start_transitions = torch.nn.Parameter(torch.empty(num_tags))
        self.end_transitions = torch.nn.Parameter(torch.empty(num_tags))
        self.transitions = torch.nn.Parameter(torch.empty(num_tags, num_tags))
        self.reset_parameters()

    def reset_parameters(self):
        """Draw all parameters uniformly from −0.1 to 0.1."""
        for parameter in self.parameters():
            torch.nn.init.uniform_(parameter, -0.1, 0.1)

    def __repr__(self):
        return f"{type(self).__name__}(num_tags={self.num_tags})"

    def forward(
        self,
        emissions: torch.Tensor,
        tags: torch.Tensor,
        mask: torch.Tensor | None = None,
        reduction: str = "sum",
    ) -> torch.Tensor:
        """Log-likelihood of tags (steps, batch); the reduction is none, sum, mean or token_mean."""
        if reduction not in ("none", "sum", "mean", "token_mean"):
            raise ValueError(f"reduction must be none, sum, mean or token_mean, got '{reduction}'")
        if not torch.jit.is_scripting() and not torch.jit.is_tracing():
            self._check(emissions, mask, tags)
        emissions, mask = self._batch_first(emissions, mask)
        tags = tags if self.batch_first else tags.transpose(0, 1)
        wide = torch.promote_types(emissions.dtype, torch.float32)
        wide = torch.promote_types(self.transitions.dtype, wide)
        scores = (
            emissions.to(wide),
            self.transitions.to(wide),
            self.start_transitions.to(wide),
            self.end_transitions.to(wide),
        )
        if torch.jit.is_scripting():  # noqa: SIM114  scripting must not see the other branches
            value = _log_likelihood(tags, mask, *scores)
        elif _is_transformed(mask, tags, *scores):
            value = _log_likelihood(tags, mask, *scores)
        else:
            value = _LogLikelihood.apply(tags, mask, *scores)
        if reduction == "none":
            return value
        if reduction == "mean":
            return value.mean()
        return value.sum() / mask.sum() if reduction == "token_mean" else value.sum()

    def decode(self, emissions, mask=None):
        """The best tags of each sequence, a list of lists of its unmasked steps."""
        self._check(emissions, mask)
        emissions, mask = self._batch_first(emissions, mask)
        scores = (emissions, self.transitions, self.start_transitions, self.end_transitions)
        valid = _array(mask)
        tags, _ = crf.viterbi(**_arrays(scores), mask=valid)
        return [row[steps].tolist() for row, steps in zip(tags, valid, strict=True)]

    def _batch_first(self, emissions: torch.Tensor, mask: torch.Tensor | None):
        """Emissions and a mask of booleans, both with the batch first."""
        if mask is None:
            mask = torch.ones(emissions.shape[:2], dtype=torch.bool, device=emissions.device)
        mask = mask.to(torch.bool)
        if self.batch_first:
            return emissions, mask
        return emissions.transpose(0, 1), mask.transpose(0, 1)

    @torch.jit.unused
    def _check(self, emissions, mask, tags=None):
        for name, given in (("emissions", emissions), ("tags", tags), ("mask", mask)):
            if not isinstance(given, torch.Tensor) and (name == "emissions" or given is not None):
                raise ValueError(f"{name} must be a tensor of torch, got {type(given).__name__}")
        if emissions.dim() != 3 or emissions.shape[2] != self.num_tags:
            raise ValueError(
                f"emissions must have 3 dimensions, the last {self.num_tags}, "
                f"got shape {tuple(emissions.shape)}"
            )
        for name, given in (("tags", tags), ("mask", mask)):
            if given is not None and given.shape != emissions.shape[:2]:
                raise ValueError(
                    f"{name} must have the first two dimensions of emissions, "
                    f"{tuple(emissions.shape[:2])}, got shape {tuple(given.shape)}"
                )
        if mask is None or torch.compiler.is_exporting() or not _has_memory(mask):
            return
        if not (mask[:, 0] if self.batch_first else mask[0]).all():
            raise ValueError("mask must be on at the first step of every sequence")


class _LogLikelihood(torch.autograd.Function):
    """First derivatives by the kernel; higher ones by torch operations."""

    @staticmethod
    def forward(context, tags, mask, *scores):
        context.save_for_backward(tags, mask, *scores)
        chain = {"tags": tags.cpu().numpy(), "mask": mask.cpu().numpy(), **_arrays(scores)}
        return torch.from_numpy(crf.log_likelihood(**chain)).to(scores[0].device)

    @staticmethod
    def backward(context, weights):
        tags, mask, *scores = context.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            value = _log_likelihood(tags, mask, *scores)
            return None, None, *torch.autograd.grad(value, scores, weights, create_graph=True)
        _, gradients = crf.log_likelihood_and_gradients(
            tags=tags.cpu().numpy(),
            mask=mask.cpu().numpy(),
            weights=weights.cpu().numpy(),
            **_arrays(scores),
        )
        return None, None, *(torch.from_numpy(g).to(weights.device) for g in gradients)


def _log_likelihood(
    tags: torch.Tensor,
    mask: torch.Tensor,
    emissions: torch.Tensor,
    transitions: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
) -> torch.Tensor:
    """The log-likelihoods by torch operations alone, which torch can transform and compile."""
    dtype, num_tags = emissions.dtype, emissions.shape[2]
    emissions, transitions = emissions.double(), transitions.double()
    start, end = start.double(), end.double()
    tags = torch.where(mask, tags, 0).long()
    one_hot = (tags[:, :, None] == torch.arange(num_tags, device=tags.device)).unbind(1)
    last, reached = one_hot[0], start + emissions[:, 0]
    gold = _at(last, reached)
    for step in range(1, emissions.shape[1]):
        valid, here, now = mask[:, step], one_hot[step], emissions[:, step]
        following = _log_sum_exp(reached[:, :, None] + transitions) + now
        reached = torch.where(valid[:, None], following, reached)
        pair = last[:, :, None] & here[:, None, :]
        added = _at(pair.flatten(1), transitions.flatten()) + _at(here, now)
        gold = gold + torch.where(valid, added, 0.0)
        last = torch.where(valid[:, None], here, last)
    total = _log_sum_exp((reached + end)[:, :, None])[:, 0]
    return (gold + _at(last, end) - total).to(dtype)


def _at(chosen: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """The chosen score along the last axis."""
    return torch.where(chosen, scores, 0.0).sum(-1)


def _log_sum_exp(scores: torch.Tensor) -> torch.Tensor:
    """Log-sum-exp over the second axis; where all are −inf it is −inf, with gradients of zero."""
    largest = scores.detach().amax(1)
    largest = torch.where(torch.isfinite(largest), largest, 0.0)
    summed = (scores - largest[:, None]).exp().sum(1)
    is_zero = summed == 0
    return torch.where(is_zero, 1.0, summed).log() + torch.where(is_zero, -torch.inf, largest)


def _is_transformed(*tensors):
    """Whether torch.func, a trace or an export handles these tensors, and not autograd alone."""
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return True
    return not all(_has_memory(tensor) and _has_no_tangent(tensor) for tensor in tensors)


def _has_memory(tensor):
    try:
        tensor.data_ptr()
    except RuntimeError:  # under torch.func
        return False
    return True


def _has_no_tangent(tensor):
    return torch.autograd.forward_ad.unpack_dual(tensor).tangent is None


def _array(tensor):
    tensor = tensor.detach()
    return tensor.cpu().numpy() if _has_memory(tensor) else np.array(tensor.tolist())


def _arrays(scores):
    half = (torch.float16, torch.bfloat16)
    scores = (score.float() if score.dtype in half else score for score in scores)
    return {name: _array(score) for name, score in zip(NAMES, scores, strict=True)}
