"""AdamW on a GPU: all 199 variables of BERT-base, beside torch's fused AdamW and a copy."""

from functools import partial
from math import prod

import cupy
import numpy as np

from fastkeras.optimizers import transforms, update

from .clock import graph_of, milliseconds

RATE, DECAY, LARGEST_NORM = 1e-3, 0.01, 1.0
ALLOWED = {"float32": 2e-6, "bfloat16": 2**-8, "8 bits": 5e-3}  # errors of parameters near 1
SAMPLE = 512  # numbers of each variable that are compared


def shapes_of_bert():
    """The variables of BERT-base: 109,482,240 numbers."""
    width, inner = 768, 3072
    layer = [(width, width), (width,)] * 4 + [(width,)] * 4
    layer += [(width, inner), (inner,), (inner, width), (width,)]
    return [
        *((30522, width), (512, width), (2, width), (width,), (width,)),
        *(layer * 12),
        *((width, width), (width,)),
    ]


SHAPES = shapes_of_bert()
COUNT = sum(map(prod, SHAPES))
RATES = np.linspace(0.1, 1.0, len(SHAPES))  # multipliers, one for each variable


def rows():
    """One dict for each measured call; no call is timed before its result is right."""
    copied = copy_of(28 * COUNT)
    yield {
        "name": "copy of as many bytes as AdamW moves",
        "ms": copied,
        "GB/s": 28e-6 * COUNT / copied,
    }
    ours = None
    for name, (make, allowed, bytes_each) in calls().items():
        row = {"name": name}
        try:
            call, row["error"] = make()
            assert row["error"] < allowed, f"error {row['error']}"
            row["ms"] = milliseconds(call)
        except Exception as error:  # one that fails does not hide the others
            yield {**row, "failed": f"{type(error).__name__}: {error}"[:200]}
            continue
        finally:
            call = None  # which holds the arrays
            cupy.get_default_memory_pool().free_all_blocks()
        ours = ours or row["ms"]
        yield {
            **row,
            "GB/s": 1e-6 * COUNT * bytes_each / row["ms"],
            "of the copy": copied * bytes_each / 28 / row["ms"],
            "ratio": row["ms"] / ours,
        }


def copy_of(num_bytes):
    """The milliseconds of a copy that reads and writes so many bytes together."""
    source = cupy.zeros(num_bytes // 8, "float32")
    target = cupy.empty_like(source)
    return milliseconds(partial(cupy.copyto, target, source))


def calls():
    """By name: a function that returns a call and its error; the error allowed; bytes a number."""
    clip = (transforms.clip_by_global_norm(LARGEST_NORM),)
    of_float32 = ALLOWED["float32"]
    made = {
        "one rate": (partial(ours, graph=True), of_float32, 28),
        "199 rates": (partial(ours, rates=RATES, graph=True), of_float32, 28),
        "199 rates, by Python": (partial(ours, rates=RATES), of_float32, 28),
        "global norm": (partial(ours, chain=clip, graph=True), of_float32, 32),
        "8-bit moments": (partial(ours, bits=8, graph=True), ALLOWED["8 bits"], 16),
        "bfloat16": (partial(ours, dtype="bfloat16", graph=True), ALLOWED["bfloat16"], 22),
        "bfloat16, 8-bit moments": (
            partial(ours, dtype="bfloat16", bits=8, graph=True),
            ALLOWED["bfloat16"] + ALLOWED["8 bits"],
            10,
        ),
    }
    for name, more, bytes_each in (
        ("compat.torch_optim, one group", {"by_us": True}, 28),
        ("compat.torch_optim, 199 groups", {"by_us": True, "rates": RATES}, 28),
        ("compat.torch_optim, max_norm", {"by_us": True, "clip": True}, 32),
        ("torch, one group", {}, 28),
        ("torch, 199 groups", {"rates": RATES}, 28),
        ("torch, clip_grad_norm_", {"clip": True}, 40),
        ("torch, bfloat16 with moments of bfloat16", {"dtype": "bfloat16"}, 14),
    ):
        allowed = ALLOWED[more.get("dtype", "float32")]
        made[name] = (partial(of_torch, **more), allowed, bytes_each)
    return made


def problem(dtype):
    """Parameters and gradients on the device, of CuPy."""
    rng = cupy.random.default_rng(0)
    values = []
    for shape in SHAPES:
        parameter = rng.standard_normal(shape, "float32")
        gradient = rng.standard_normal(shape, "float32") * np.float32(1e-3)
        values.append([rounded(x) if dtype == "bfloat16" else x for x in (parameter, gradient)])
    return tuple(map(list, zip(*values, strict=True)))


def rounded(values):
    """As bfloat16, of CuPy, which knows the type since version 14."""
    import ml_dtypes

    return values.astype(ml_dtypes.bfloat16)


def sample_of(arrays):
    """The first numbers of each array, float64, on the CPU."""
    return np.concatenate(
        [cupy.asnumpy(array.reshape(-1)[:SAMPLE].astype("float32")) for array in arrays]
    ).astype("float64")


def expected(parameters, gradients, rates, norm):
    """The sample after the first step, by NumPy in float64."""
    p, g = sample_of(parameters), sample_of(gradients)
    sizes = [min(SAMPLE, prod(shape)) for shape in SHAPES]
    rate = RATE * np.repeat(rates, sizes)
    g = g * min(1.0, LARGEST_NORM / norm)
    return p - rate * DECAY * p - rate * g / (np.abs(g) + 1e-7)  # m / √v, both unbiased


def norm_of(gradients):
    squares = [cupy.asnumpy(cupy.sum(g.astype("float64") ** 2)) for g in gradients]
    return float(np.sqrt(sum(squares)))


def ours(dtype="float32", bits=32, rates=None, chain=(), graph=False):
    parameters, gradients = problem(dtype)
    rates = np.ones(len(SHAPES)) if rates is None else rates
    right = expected(parameters, gradients, rates, norm_of(gradients) if chain else LARGEST_NORM)
    step = partial(
        update,
        *("adam", parameters, gradients, [slots_of(shape, bits) for shape in SHAPES]),
        learning_rate=RATE,
        step=1,
        epsilon=1e-7 * np.sqrt(1e-3),  # that of m / √v, both unbiased, at the first step
        multipliers=rates,
        weight_decays=[DECAY] * len(SHAPES),
        transforms=[chain] * len(SHAPES),
    )
    step()
    found = sample_of(parameters)
    call = graph_of(step) if graph else step
    return call, float(np.abs(found - right).max())


def slots_of(shape, bits):
    size = prod(shape)
    if bits == 8 and size >= 4096:
        scales = (-(-size // 256),)
        return tuple(
            cupy.zeros(s, t) for _ in (1, 2) for s, t in ((shape, "uint8"), (scales, "float32"))
        )
    return tuple(cupy.zeros(shape, "float32") for _ in (1, 2))


def of_torch(dtype="float32", rates=None, clip=False, by_us=False):
    import torch

    from fastkeras.compat.torch_optim import AdamW

    on_cupy = problem("float32")
    if dtype == "bfloat16":
        on_cupy = tuple([x.astype("float32") for x in map(rounded, xs)] for xs in on_cupy)
    norm = norm_of(on_cupy[1]) if clip else LARGEST_NORM
    multipliers = np.ones(len(SHAPES)) if rates is None else rates
    right = expected(*on_cupy, multipliers, norm)
    kind = getattr(torch, dtype)
    parameters, gradients = (
        [torch.as_tensor(x, device="cuda").to(kind) for x in xs] for xs in on_cupy
    )
    del on_cupy
    parameters = [torch.nn.Parameter(p.clone()) for p in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    groups = parameters
    if rates is not None:
        groups = [{"params": [p], "lr": RATE * r} for p, r in zip(parameters, rates, strict=True)]
    settings = {"lr": RATE, "eps": 1e-7, "weight_decay": DECAY}
    if by_us:
        optimizer = AdamW(groups, max_norm=LARGEST_NORM if clip else None, **settings)
    else:
        optimizer = torch.optim.AdamW(groups, fused=True, **settings)

    def call():
        if clip and not by_us:
            torch.nn.utils.clip_grad_norm_(parameters, LARGEST_NORM)
        optimizer.step()

    call()
    found = torch.cat([p.detach().reshape(-1)[:SAMPLE].double() for p in parameters]).cpu().numpy()
    torch.cuda.synchronize()
    return call, float(np.abs(found - right).max())
