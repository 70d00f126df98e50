"""pytorch-crf's `CRF`, computed by the kernels for tensors of torch; it does not need Keras."""

from functools import partial

import numpy as np
import torch

from fastkeras import _engines, crf
from fastkeras.training.arguments import flag, integer

try:
    from fastkeras.crf._engines.torch_native import LOG_LIKELIHOOD
except ImportError:  # not compiled
    LOG_LIKELIHOOD = -1

NAMES = ("emissions", "transitions", "start_transitions", "end_transitions")
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class CRF(torch.nn.Module):
    """Linear-chain CRF with the parameters of pytorch-crf, hence with its `state_dict`.

    Args:
        num_tags: number of tags.
        batch_first: whether tensors are (batch, steps, …) rather than (steps, batch, …).

    Raises:
        ValueError: an argument, a shape, a dtype or the reduction is not what it takes.

    A mask may have holes, which the chain bridges, but must not begin with a masked step. Results
    are at least float32. With CuPy, tensors on a GPU of NVIDIA are computed there, except in what
    `torch.jit` compiles, and without checks of the tags: one out of range makes its sequence NaN.
    Other tensors that are not on the CPU are computed on it.

    Values and first derivatives come from the kernels, also under `torch.func` (grad, vjp, vmap,
    …), `torch.compile`, `torch.jit.script` and `trace`, and `torch.export`; a process that loads
    such a program has to import this module before. Second derivatives, and those in forward mode,
    are composed of torch operations, and so is all where the kernels were not compiled. A mask that
    begins with a masked step is refused wherever its values are known.

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

    def __init__(self, num_tags: int, batch_first: bool = False) -> None:
        num_tags = integer("num_tags", num_tags, 1)
        super().__init__()
        self.num_tags = num_tags
        self.batch_first = flag("batch_first", batch_first)
        self.start_transitions = torch.nn.Parameter(torch.empty(num_tags))
        self.end_transitions = torch.nn.Parameter(torch.empty(num_tags))
        self.transitions = torch.nn.Parameter(torch.empty(num_tags, num_tags))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters uniformly from −0.1 to 0.1."""
        for parameter in self.parameters():
            torch.nn.init.uniform_(parameter, -0.1, 0.1)

    def __repr__(self) -> str:
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
        if torch.jit.is_scripting() and not bool(mask[:, :1].all()):
            raise ValueError("mask must be on at the first step of every sequence")
        tags = tags if self.batch_first else tags.transpose(0, 1)
        wide = torch.promote_types(emissions.dtype, torch.float32)
        wide = torch.promote_types(self.transitions.dtype, wide)
        where = torch.device("cpu")
        if not torch.jit.is_scripting() and not torch.jit.is_tracing():
            where = _place_of(emissions)
        value = _log_likelihood(
            tags.to(where),
            mask.to(where),
            emissions.to(wide).to(where),
            self.transitions.to(wide).to(where),
            self.start_transitions.to(wide).to(where),
            self.end_transitions.to(wide).to(where),
        ).to(emissions.device)
        if reduction == "none":
            return value
        if reduction == "mean":
            return value.mean()
        return value.sum() / mask.sum() if reduction == "token_mean" else value.sum()

    def decode(self, emissions: torch.Tensor, mask: torch.Tensor | None = None) -> list[list[int]]:
        """The best tags of each sequence, a list of lists of its unmasked steps."""
        self._check(emissions, mask)
        emissions, mask = self._batch_first(emissions, mask)
        scores = (emissions, self.transitions, self.start_transitions, self.end_transitions)
        valid = _array(mask)
        if _has_memory(emissions) and _place_of(emissions).type == "cuda":
            wide = torch.promote_types(emissions.dtype, torch.float32)
            given = dict(zip(NAMES, (score.detach().to(wide) for score in scores), strict=True))
            tags = crf.viterbi(**given, mask=mask)[0].cpu().numpy()
        else:
            tags, _ = crf.viterbi(**_arrays(scores), mask=valid)
        return [row[steps].tolist() for row, steps in zip(tags, valid, strict=True)]

    def _batch_first(
        self, emissions: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
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
        if emissions.is_complex():
            raise ValueError(f"emissions must be real numbers, got {emissions.dtype}")
        if tags is not None and tags.dtype not in INTEGERS:
            raise ValueError(f"tags must be integers, got {tags.dtype}")
        if mask is None or torch.compiler.is_compiling() or not _has_memory(mask):
            return
        if not (mask[:, 0] if self.batch_first else mask[0]).all():
            raise ValueError("mask must be on at the first step of every sequence")


@torch.jit.unused
def _place_of(emissions):
    """Where to compute: on the device of the emissions, if that is a GPU and has the kernels."""
    return emissions.device if emissions.is_cuda and _has_gpu() else torch.device("cpu")


@torch.compiler.assume_constant_result
def _has_gpu():
    return _engines.engines("crf")["torch_cuda"] == "ready"


def _log_likelihood(
    tags: torch.Tensor,
    mask: torch.Tensor,
    emissions: torch.Tensor,
    transitions: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
) -> torch.Tensor:
    """The log-likelihoods (batch,) of float32 or float64 scores, all on one device."""
    scores = (emissions, transitions, start, end)
    tags = tags.long().clamp(-1, emissions.shape[2]).to(torch.int32)  # what is wrong stays wrong
    if torch.jit.is_scripting():
        return _in_a_program(tags, mask, emissions, transitions, start, end)
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return _in_a_program(tags, mask, *scores)
    if LOG_LIKELIHOOD < 0 or _is_forward_mode():
        return _composed(tags, mask, *scores)
    if torch.is_grad_enabled():
        return _LogLikelihood.apply(tags, mask, *scores)[0]
    return _by_kernel(tags, mask, *scores, False)[0]


def _value_in_a_program(
    tags: torch.Tensor,
    mask: torch.Tensor,
    emissions: torch.Tensor,
    transitions: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
) -> torch.Tensor:
    """The log-likelihoods by the op alone, with the derivative that torch knows of it."""
    keep = torch.is_grad_enabled() and not torch.jit.is_tracing()  # a trace is used in both modes
    to_scores = emissions.requires_grad or transitions.requires_grad
    keep = keep and (to_scores or start.requires_grad or end.requires_grad)
    return _by_kernel(tags, mask, emissions, transitions, start, end, keep)[0]


def _by_kernel(
    tags: torch.Tensor,
    mask: torch.Tensor,
    emissions: torch.Tensor,
    transitions: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
    keep_workspace: bool,
    quantity: int = LOG_LIKELIHOOD,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-likelihoods, and what the kernel of the gradient reads."""
    chain = (emissions, transitions, _lengths(emissions), mask, start, end, tags)
    return torch.ops.fastkeras.crf_value(*chain, quantity, keep_workspace)


def _lengths(emissions: torch.Tensor) -> torch.Tensor:
    """Those of a chain whose mask alone says which steps are valid."""
    shape, device = (emissions.shape[0],), emissions.device
    return torch.full(shape, emissions.shape[1], dtype=torch.int32, device=device)


def _composed(
    tags: torch.Tensor,
    mask: torch.Tensor,
    emissions: torch.Tensor,
    transitions: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
) -> torch.Tensor:
    """The log-likelihoods by torch operations alone, which have all derivatives."""
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


_in_a_program = _composed if LOG_LIKELIHOOD < 0 else _value_in_a_program


class _LogLikelihood(torch.autograd.Function):
    """First derivatives by the kernel, second ones of what is composed of torch operations."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tags, mask, *scores):
        return _by_kernel(tags, mask, *scores, True)

    @staticmethod
    def setup_context(context, inputs, output):
        context.set_materialize_grads(False)
        context.mark_non_differentiable(output[1])
        context.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(context, weights, _):
        *inputs, value, workspace = context.saved_tensors
        if weights is None:
            return (None,) * 6
        return None, None, *_gradients(inputs, value, workspace, weights)


class _Gradients(torch.autograd.Function):
    """The gradients by the scores, as a function of these and of the weights of the sequences."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tags, mask, *scores_and_more):
        *scores, value, workspace, weights = scores_and_more
        emissions, transitions, start, end = scores
        chain = (emissions, transitions, _lengths(emissions), mask, start, end, tags)
        return torch.ops.fastkeras.crf_gradient(*chain, value, workspace, weights, LOG_LIKELIHOOD)

    @staticmethod
    def setup_context(context, inputs, output):
        context.save_for_backward(*inputs)

    @staticmethod
    def backward(context, *d_gradients):
        tags, mask, *scores, _, _, weights = context.saved_tensors
        gradients = partial(_composed_gradients, tags, mask)
        *d_scores, d_weights = torch.func.vjp(gradients, *scores, weights)[1](d_gradients)
        return None, None, *d_scores, None, None, d_weights


def _gradients(inputs, value, workspace, weights):
    """The gradients by the scores, which can be differentiated again."""
    if _is_forward_mode():
        return _composed_gradients(*inputs, weights)
    return _Gradients.apply(*inputs, value, workspace, weights)


def _composed_gradients(tags, mask, *scores_and_weights):
    *scores, weights = scores_and_weights
    return torch.func.vjp(partial(_composed, tags, mask), *scores)[1](weights)


def _is_forward_mode():
    """Whether derivatives in forward mode are being computed, in which Functions cannot nest."""
    return torch.autograd.forward_ad._current_level >= 0


def _has_memory(tensor):
    try:
        tensor.data_ptr()
    except RuntimeError:  # under torch.func
        return False
    return True


def _array(tensor):
    tensor = tensor.detach()
    return tensor.cpu().numpy() if _has_memory(tensor) else np.array(tensor.tolist())


def _arrays(scores):
    half = (torch.float16, torch.bfloat16)
    scores = (score.float() if score.dtype in half else score for score in scores)
    return {name: _array(score) for name, score in zip(NAMES, scores, strict=True)}
