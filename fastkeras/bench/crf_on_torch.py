"""The CRF on tensors of torch: our engines and pytorch-crf, as providers of crf.py."""

from functools import partial

import numpy as np

from fastkeras import crf
from fastkeras.bench.crf_on_jax import check_backend

LONGEST_TO_COMPILE = 16  # steps: torch.compile unrolls the loop over them, 128 take minutes


def engine(engine, problem):
    """One of our engines; `torch_native` needs no Keras."""
    import torch

    if engine == "keras":
        check_backend("torch")
    x, tags, a, lengths, start, end = map(torch.from_numpy, problem)
    scores = [score.requires_grad_() for score in (x, a, start, end)]
    more = {"start_transitions": start, "end_transitions": end, "engine": engine}

    def log_likelihood():
        with torch.no_grad():
            return crf.log_likelihood(x, tags, a, lengths, **more).numpy()

    def gradient():
        value = crf.log_likelihood(x, tags, a, lengths, **more)
        d_x, d_a, _, _ = torch.autograd.grad(value.sum(), scores)
        return value.detach().numpy(), d_x.numpy(), d_a.numpy()

    def viterbi():
        with torch.no_grad():
            return crf.viterbi(x, a, lengths, **more)[0].numpy()

    return {"log-likelihood": log_likelihood, "gradient": gradient, "viterbi": viterbi}


def compiled_pytorch_crf(problem):
    """pytorch-crf under torch.compile, except for its decoding, which builds lists."""
    steps = problem.emissions.shape[1]
    if steps > LONGEST_TO_COMPILE:
        raise ImportError(
            f"torch.compile writes out all {steps} steps, more than {LONGEST_TO_COMPILE}"
        )
    import torch

    torch.compiler.reset()  # else it gives up shapes, or compiling, after a few problems
    return pytorch_crf(problem, partial(torch.compile, dynamic=False))


def pytorch_crf(problem, transform=lambda layer: layer):
    import torch
    from torchcrf import CRF

    x, tags, a, _, start, end = map(torch.from_numpy, problem)
    mask = torch.from_numpy(problem.valid())
    layer = CRF(x.shape[2], batch_first=True)
    with torch.no_grad():
        layer.transitions.copy_(a)
        layer.start_transitions.copy_(start)
        layer.end_transitions.copy_(end)
    forward = transform(layer)
    tags = tags.long()
    x.requires_grad_()

    def log_likelihood():
        with torch.no_grad():
            return forward(x, tags, mask, reduction="none").numpy()

    def gradient():
        value = forward(x, tags, mask, reduction="none")
        variables = [x, layer.transitions, layer.start_transitions, layer.end_transitions]
        d_x, d_a, _, _ = torch.autograd.grad(value.sum(), variables)
        return value.detach().numpy(), d_x.numpy(), d_a.numpy()

    def viterbi():
        found = np.zeros(x.shape[:2], np.int32)
        for row, path in zip(found, layer.decode(x.detach(), mask), strict=True):
            row[: len(path)] = path
        return found

    return {"log-likelihood": log_likelihood, "gradient": gradient, "viterbi": viterbi}
