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
    "seq2seq_select(Tensor logits, Tensor scores, Tensor? history, Tensor? allowed, "
    "float repetition_penalty, int no_repeat_ngram, int num_candidates) "
    "-> (Tensor, Tensor, Tensor)",
    like=_like,
    batch_axes=(0, 0, 0, 0, None, None, None),
    result_axes=None,  # `allowed` may have one row for the whole batch
    not_differentiable="the scores of select: engine='keras' can",
)
def _select(*inputs, num_threads):
    return _core.seq2seq_select(*inputs)  # which takes no number of threads
