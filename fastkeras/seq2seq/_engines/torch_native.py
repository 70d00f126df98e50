"""The C++ kernel as a torch op: CPU tensors, in eager mode, torch.compile and torch.func."""

import torch

from fastkeras import _core
from fastkeras._ops.torch import op


def select(step, num_candidates):
    history, allowed = (
        None if value is None else torch.as_tensor(value) for value in (step.history, step.allowed)
    )
    results = _select(
        torch.as_tensor(step.logits),
        torch.as_tensor(step.scores),
        history,
        allowed,
        step.repetition_penalty,
        step.no_repeat_ngram,
        num_candidates,
    )
    if step.family == "numpy":
        return tuple(result.numpy() for result in results)
    return results


def _like(logits, *_):
    shape = (logits.shape[0], _[-1])
    return logits.new_empty(shape), *(logits.new_empty(shape, dtype=torch.int32) for _ in range(2))


@op(
    "fastkeras::seq2seq_select",
    like=_like,
    schema="(Tensor logits, Tensor scores, Tensor? history, Tensor? allowed, "
    "float repetition_penalty, int no_repeat_ngram, int num_candidates) "
    "-> (Tensor, Tensor, Tensor)",
    not_differentiable="the scores of select: engine='keras' can",
)
def _select(*inputs):
    return _core.seq2seq_select(*inputs)
