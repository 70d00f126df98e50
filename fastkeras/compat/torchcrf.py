"""pytorch-crf's `CRF`, computed by the kernels for NumPy arrays; it needs torch, and not Keras."""

import torch

from fastkeras import crf

NAMES = ("emissions", "transitions", "start_transitions", "end_transitions")


class CRF(torch.nn.Module):
    """Linear-chain CRF with the parameters, so also the `state_dict`, of pytorch-crf.

    Args:
        num_tags: number of tags.
        batch_first: whether tensors are (batch, steps, …) and not (steps, batch, …).

    A mask may have holes, which the chain bridges, but not begin with a masked step. Results are
    at least float32. Tensors of other devices are computed on the CPU.

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
        if num_tags < 1:
            raise ValueError(f"num_tags must be at least 1, got {num_tags}")
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

    def forward(self, emissions, tags, mask=None, reduction="sum"):
        """Log-likelihood of tags (steps, batch), by reduction: none, sum, mean or token_mean."""
        if reduction not in ("none", "sum", "mean", "token_mean"):
            raise ValueError(f"reduction must be none, sum, mean or token_mean, got {reduction!r}")
        emissions, mask, tags = self._arguments(emissions, mask, tags)
        wide = torch.promote_types(emissions.dtype, torch.float32)
        wide = torch.promote_types(self.transitions.dtype, wide)
        scores = (emissions, self.transitions, self.start_transitions, self.end_transitions)
        value = _LogLikelihood.apply(tags, mask, *(score.to(wide) for score in scores))
        if reduction == "token_mean":
            return value.sum() / mask.sum()
        return value if reduction == "none" else getattr(value, reduction)()

    def decode(self, emissions, mask=None):
        """The best tags of each sequence, a list of lists of its unmasked steps."""
        emissions, mask, _ = self._arguments(emissions, mask)
        scores = (emissions, self.transitions, self.start_transitions, self.end_transitions)
        tags, _ = crf.viterbi(**_arrays(scores), mask=mask.cpu().numpy())
        return [row[valid].tolist() for row, valid in zip(tags, mask.cpu().numpy(), strict=True)]

    def _arguments(self, emissions, mask, tags=None):
        """Emissions, mask and tags, all checked and with the batch first."""
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
        if mask is None:
            mask = torch.ones(emissions.shape[:2], dtype=torch.bool, device=emissions.device)
        mask = mask.bool()
        if not self.batch_first:
            emissions, mask = emissions.transpose(0, 1), mask.transpose(0, 1)
            tags = None if tags is None else tags.transpose(0, 1)
        if not mask[:, 0].all():
            raise ValueError("mask must be on at the first step of every sequence")
        return emissions, mask, tags


class _LogLikelihood(torch.autograd.Function):
    """First derivatives by hand, in the kernel; those above by the `keras` engine."""

    @staticmethod
    def forward(context, tags, mask, *scores):
        context.save_for_backward(tags, mask, *scores)
        chain = {"tags": tags.cpu().numpy(), "mask": mask.cpu().numpy(), **_arrays(scores)}
        return torch.from_numpy(crf.log_likelihood(**chain)).to(scores[0].device)

    @staticmethod
    def backward(context, weights):
        tags, mask, *scores = context.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            import keras

            if keras.backend.backend() != "torch":
                raise NotImplementedError(
                    "second derivatives need Keras with KERAS_BACKEND=torch, "
                    f"got {keras.backend.backend()!r}"
                )
            value = crf.log_likelihood(
                **dict(zip(NAMES, scores, strict=True)), tags=tags, mask=mask, engine="keras"
            )
            return None, None, *torch.autograd.grad(value, scores, weights, create_graph=True)
        _, gradients = crf.log_likelihood_and_gradients(
            tags=tags.cpu().numpy(),
            mask=mask.cpu().numpy(),
            weights=weights.cpu().numpy(),
            **_arrays(scores),
        )
        return None, None, *(torch.from_numpy(g).to(weights.device) for g in gradients)


def _arrays(scores):
    half = (torch.float16, torch.bfloat16)
    scores = (s.detach().float() if s.dtype in half else s.detach() for s in scores)
    return {name: s.cpu().numpy() for name, s in zip(NAMES, scores, strict=True)}
