"""The CRF on a GPU: loss and gradient, and Viterbi, beside pytorch-crf and compiled recursions."""

from functools import partial

import cupy
import numpy as np

import fastkeras
from fastkeras import crf

from .clock import graph_of, milliseconds

SHAPES = ((64, 256, 32), (32, 128, 9), (256, 512, 128), (8, 2048, 16), (1, 65536, 16))
ACCURATE, ROUGH = 5e-6, 1e-3  # errors of ours and of peers: shares of the largest element


def rows():
    """One dict for each measured call; no call is timed before its result is right."""
    for shape in SHAPES:
        problem = problem_of(shape)
        expected = exact(shape, problem)
        ours = None
        for name, (call, errors) in calls(shape, problem, expected).items():
            row = {"shape": shape, "name": name}
            try:
                row["error"] = errors(call())
                row["ms"] = milliseconds(call)
            except Exception as error:  # one peer that fails does not hide the others
                yield {**row, "failed": f"{type(error).__name__}: {error}"[:200]}
                continue
            ours = ours or row["ms"]
            yield {**row, "ratio": row["ms"] / ours}


def problem_of(shape):
    rng = np.random.default_rng(0)
    batch, steps, num_tags = shape
    return (
        rng.standard_normal(shape, "float32"),
        rng.integers(0, num_tags, (batch, steps)).astype("int32"),
        rng.standard_normal((num_tags, num_tags), "float32"),
        *(rng.standard_normal(num_tags, "float32") for _ in range(2)),
    )


def calls(shape, problem, expected):
    on_device = tuple(map(cupy.asarray, problem))
    x, tags, transitions, start, end = on_device
    more = {"start_transitions": start, "end_transitions": end}

    def gradients():
        return crf.log_likelihood_and_gradients(x, tags, transitions, **more)

    def errors_of_ours(result):
        likelihood, gradient = result
        found = (likelihood, *gradient[:2])
        return errors(expected, *map(cupy.asnumpy, found), allowed=ACCURATE)

    made = {
        "loss and gradient": (gradients, errors_of_ours),
        "loss and gradient, in a graph": (graph_of(gradients), errors_of_ours),
        "Viterbi, in a graph": (
            graph_of(partial(crf.viterbi, x, transitions, **more)),
            lambda result: errors_of_path(problem, *map(cupy.asnumpy, result)),
        ),
    }
    if shape[1] <= 2048:  # beyond, the others take minutes
        made |= of_torch(problem, expected) | of_jax(problem, expected)
    return made


def exact(shape, problem):
    """The likelihood and its gradients in float64; on the GPU where the CPU would take minutes."""
    x, tags, transitions, start, end = (
        value.astype("float64") if value.dtype == "float32" else value for value in problem
    )
    put = cupy.asarray if np.prod(shape) > 2**20 else np.asarray
    more = {"start_transitions": put(start), "end_transitions": put(end)}
    if put is np.asarray:
        more["engine"] = "reference"
    likelihood, gradient = crf.log_likelihood_and_gradients(
        put(x), put(tags), put(transitions), **more
    )
    return tuple(map(cupy.asnumpy, (likelihood, gradient[0], gradient[1])))


def errors(expected, *results, allowed=ROUGH):
    """The largest errors of value and gradients, relative to the largest element of each."""
    found = [
        float(np.abs(result - right).max() / np.abs(right).max())
        for result, right in zip(results, expected, strict=True)
    ]
    assert max(found) < allowed, f"errors {found}"
    return max(found)


def errors_of_path(problem, tags, score):
    x, _, transitions, start, end = problem
    of_path = crf.sequence_score(
        *(x.astype("float64"), tags, transitions.astype("float64")),
        **{"start_transitions": start.astype("float64"), "end_transitions": end.astype("float64")},
        engine="reference",
    )
    found = float(np.abs(score - of_path).max() / np.abs(of_path).max())
    assert found < ACCURATE, f"error {found}"
    return found


def of_torch(problem, expected):
    """pytorch-crf as its users call it, and the scaled recursion as a CUDA graph."""
    import torch

    x, tags, transitions, start, end = (torch.as_tensor(value).cuda() for value in problem)
    x.requires_grad_()
    transitions.requires_grad_()
    more = {"start_transitions": start, "end_transitions": end}
    made = {}

    def right(result, allowed=ROUGH):
        found = [value.detach().cpu().numpy() for value in result]
        return errors(expected, *found, allowed=allowed)

    def ours():
        likelihood = crf.log_likelihood(x, tags, transitions, **more, engine="torch_cuda")
        return likelihood, *torch.autograd.grad(likelihood.sum(), (x, transitions))

    if fastkeras.engines("crf")["torch_cuda"] == "ready":
        made["torch tensors: loss and backward"] = (ours, partial(right, allowed=ACCURATE))
    try:
        from torchcrf import CRF
    except ImportError:
        pass
    else:
        layer = CRF(x.shape[2], batch_first=True).cuda()
        for parameter, value in (
            (layer.transitions, transitions),
            (layer.start_transitions, start),
            (layer.end_transitions, end),
        ):
            parameter.data.copy_(value)

        def peer():
            likelihood = layer(x, tags.long(), reduction="none")
            gradients = torch.autograd.grad(likelihood.sum(), (x, layer.transitions))
            return likelihood, *gradients

        made["pytorch-crf"] = (peer, right)

    def scaled():
        """log Z by products with exp(transitions), rescaled at each step."""
        peak = transitions.max()
        weights = (transitions - peak).exp()
        first = x[:, 0] + start
        peaks = torch.cat([first[:, None], x[:, 1:]], 1).amax(2)
        alpha = (first - peaks[:, :1]).exp()
        terms = (x - peaks[:, :, None]).exp().unbind(1)
        logs = 0
        for step in range(1, x.shape[1]):
            total = alpha.sum(1, keepdim=True)
            logs = logs + total.log()
            alpha = (alpha / total) @ weights * terms[step]
        log_z = (alpha * end.exp()).sum(1).log() + logs[:, 0] + peaks.sum(1)
        log_z = log_z + (x.shape[1] - 1) * peak
        score = x.gather(2, tags.long()[:, :, None])[:, :, 0].sum(1)
        score = score + start[tags[:, 0].long()] + end[tags[:, -1].long()]
        likelihood = score + transitions[tags[:, :-1].long(), tags[:, 1:].long()].sum(1) - log_z
        return likelihood, *torch.autograd.grad(likelihood.sum(), (x, transitions))

    def captured():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(2):
                scaled()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = scaled()

        def replay():
            graph.replay()
            return result

        return replay

    if x.shape[1] <= 512:
        made["torch: scaled recursion, in a graph"] = (Late(captured), right)
    return made


def of_jax(problem, expected):
    """The log-space recursion as a scan, and the scaled one, compiled by XLA for the GPU."""
    try:
        import jax
    except ImportError:
        return {}
    from jax import numpy as jnp

    x, tags, transitions, start, end = map(jnp.asarray, problem)
    exactly = jax.lax.Precision.HIGHEST

    def of_path(x, transitions):
        score = jnp.take_along_axis(x, tags[:, :, None], 2)[:, :, 0].sum(1)
        score += transitions[tags[:, :-1], tags[:, 1:]].sum(1)
        return score + start[tags[:, 0]] + end[tags[:, -1]]

    def in_log_space(x, transitions):
        def step(alpha, emission):
            scores = alpha[:, :, None] + transitions + emission[:, None]
            return jax.nn.logsumexp(scores, 1), None

        alpha, _ = jax.lax.scan(step, x[:, 0] + start, x[:, 1:].swapaxes(0, 1))
        return of_path(x, transitions) - jax.nn.logsumexp(alpha + end, 1)

    def scaled(x, transitions):
        peak = jax.lax.stop_gradient(transitions.max())
        weights = jnp.exp(transitions - peak)

        def step(carry, emission):
            alpha, logs = carry
            top = jax.lax.stop_gradient(emission.max(1, keepdims=True))
            alpha = jnp.dot(alpha, weights, precision=exactly) * jnp.exp(emission - top)
            total = alpha.sum(1, keepdims=True)
            return (alpha / total, logs + jnp.log(total) + top + peak), None

        first = x[:, 0] + start
        top = jax.lax.stop_gradient(first.max(1, keepdims=True))
        carry, _ = jax.lax.scan(step, (jnp.exp(first - top), top), x[:, 1:].swapaxes(0, 1))
        log_z = jnp.log((carry[0] * jnp.exp(end)).sum(1)) + carry[1][:, 0]
        return of_path(x, transitions) - log_z

    def with_gradients(function):
        def both(x, transitions):
            value, back = jax.vjp(function, x, transitions)
            return value, *back(jnp.ones_like(value))

        compiled = jax.jit(both)
        return lambda: jax.block_until_ready(compiled(x, transitions))

    def right(result, allowed=ROUGH):
        return errors(expected, *map(np.asarray, result), allowed=allowed)

    def ours(x, transitions):
        more = {"start_transitions": start, "end_transitions": end}
        return crf.log_likelihood(x, tags, transitions, **more)

    made = {}
    if fastkeras.engines("crf").get("jax_cuda") == "ready":
        call = with_gradients(ours)
        made["jax arrays: value and gradient under jit"] = (call, partial(right, allowed=ACCURATE))
    made["jax: scaled lax.scan under jit"] = (with_gradients(scaled), right)
    if x.shape[2] <= 32:  # beyond, it needs batch * tags^2 numbers at each step
        made["jax: log-space lax.scan under jit"] = (with_gradients(in_log_space), right)
    return made


class Late:
    """A call that is prepared when it is first made."""

    def __init__(self, make):
        self.make, self.call = make, None

    def __call__(self):
        self.call = self.call or self.make()
        return self.call()
