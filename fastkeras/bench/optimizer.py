"""The providers of an optimizer step: for each, a function that makes a `Step` from a problem.

Each is given the gradients, as after a backward pass, and updates its own copy of the parameters.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LEARNING_RATE, WEIGHT_DECAY, EPSILON, CLIP = 1e-4, 0.01, 1e-7, 1.0
SETTINGS = {"learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "epsilon": EPSILON}


class Problem(NamedTuple):
    parameters: list  # float32 arrays
    gradients: list
    groups: list  # for each, the number of its layer, which has a learning rate of its own

    def multipliers(self, rates):
        return [0.9 ** (max(self.groups) - group) if rates else 1.0 for group in self.groups]


class Step(NamedTuple):
    call: Callable
    parameters: Callable  # returns the parameters, by position
    state_bytes: Callable | None = None
    first_call_compiles: bool = False


def transformer(width, inner, layers, vocabulary, seed=0):
    """The shapes of BERT's variables, and a layer number for each, from the embeddings up."""
    embeddings = [(vocabulary, width), (512, width), (2, width), (width,), (width,)]
    square = [(width, width), (width,)]
    layer = [*square * 4, (width,), (width,)]
    layer += [(width, inner), (inner,), (inner, width), (width,), (width,), (width,)]
    shapes = [*embeddings, *layer * layers, *square]
    groups = [0] * len(embeddings) + [1 + i for i in range(layers) for _ in layer]
    groups += [layers + 1] * len(square)
    return of_shapes(shapes, groups, seed)


def of_shapes(shapes, groups, seed=0):
    """Parameters and gradients as large as those of a trained transformer."""
    rng = np.random.default_rng(seed)
    parameters = [0.02 * rng.standard_normal(shape, np.float32) for shape in shapes]
    gradients = [1e-3 * rng.standard_normal(shape, np.float32) for shape in shapes]
    return Problem(parameters, gradients, groups)


def of_keras(problem, optimizer, jit_compile=False):
    import keras
    import tensorflow as tf

    variables = [keras.Variable(p, name=f"v{i}") for i, p in enumerate(problem.parameters)]
    gradients = [tf.constant(g) for g in problem.gradients]
    optimizer = optimizer(variables)
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def step():
        optimizer.apply(gradients, variables)

    def state_bytes():
        return sum(v.value.numpy().nbytes for v in optimizer.variables)

    return Step(step, lambda: [np.asarray(v.value) for v in variables], state_bytes, True)


def fastkeras_step(problem, rates, clip, moment_bits=32, jit_compile=False):
    from fastkeras.optimizers import AdamW

    def optimizer(variables):
        return AdamW(
            **SETTINGS,
            global_clipnorm=CLIP if clip else None,
            learning_rate_multipliers=problem.multipliers(rates) if rates else None,
            moment_bits=moment_bits,
        )

    return of_keras(problem, optimizer, jit_compile)


def fastkeras_8_bits(problem, rates, clip):
    return fastkeras_step(problem, rates, clip, moment_bits=8)


def fastkeras_16_bits(problem, rates, clip):
    return fastkeras_step(problem, rates, clip, moment_bits=16)


def fastkeras_xla(problem, rates, clip):
    return fastkeras_step(problem, rates, clip, jit_compile=True)


def fastkeras_numpy(problem, rates, clip):
    from fastkeras.optimizers import transforms, update

    parameters = [p.copy() for p in problem.parameters]
    slots = [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
    chain = [(transforms.clip_by_global_norm(CLIP),)] * len(parameters) if clip else None
    settings = {
        "learning_rate": LEARNING_RATE,
        "weight_decays": [WEIGHT_DECAY] * len(parameters),
        "multipliers": problem.multipliers(rates),
        "transforms": chain,
        "engine": "native",
    }
    count = iter(range(1, 10**9))

    def step():
        update("adam", parameters, problem.gradients, slots, step=next(count), **settings)

    return Step(step, lambda: parameters)


def keras_step(problem, rates, clip, jit_compile=False):
    import keras

    if rates:
        raise ImportError("has one learning rate for all")

    def optimizer(variables):
        return keras.optimizers.AdamW(**SETTINGS, global_clipnorm=CLIP if clip else None)

    return of_keras(problem, optimizer, jit_compile)


def keras_xla(problem, rates, clip):
    return keras_step(problem, rates, clip, jit_compile=True)


def keras_multi_optimizer(problem, rates, clip):
    import keras

    if clip or not rates:
        raise ImportError("is for learning rates by layer; its global norms are by layer too")
    own = {}
    for group, multiplier in zip(problem.groups, problem.multipliers(rates), strict=True):
        if group not in own:
            settings = {**SETTINGS, "learning_rate": multiplier * LEARNING_RATE}
            own[group] = keras.optimizers.AdamW(**settings)

    def optimizer(variables):
        group_of = {v.path: group for v, group in zip(variables, problem.groups, strict=True)}
        return keras.optimizers.MultiOptimizer(lambda variable: own[group_of[variable.path]])

    return of_keras(problem, optimizer)


def torch_fused(problem, rates, clip):
    from torch.nn.utils import clip_grad_norm_
    from torch.optim import AdamW

    parameters, groups = of_torch(problem, rates)
    optimizer = AdamW(groups, weight_decay=WEIGHT_DECAY, eps=EPSILON, fused=True)

    def step():
        if clip:  # in place, so from the second step on nothing is left to clip, at the same cost
            clip_grad_norm_(parameters, CLIP)
        optimizer.step()

    return Step(step, lambda: [p.detach().numpy() for p in parameters])


def fastkeras_torch(problem, rates, clip):
    from fastkeras.compat.torch_optim import AdamW

    parameters, groups = of_torch(problem, rates)
    settings = {"weight_decay": WEIGHT_DECAY, "eps": EPSILON}
    optimizer = AdamW(groups, **settings, max_norm=CLIP if clip else None)
    return Step(optimizer.step, lambda: [p.detach().numpy() for p in parameters])


def of_torch(problem, rates):
    """Parameters of torch with their gradients, and their groups."""
    import torch

    torch.set_num_threads(2)
    parameters = [torch.nn.Parameter(torch.tensor(p)) for p in problem.parameters]
    for parameter, gradient in zip(parameters, problem.gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    groups = {}
    for p, group, multiplier in zip(
        parameters, problem.groups, problem.multipliers(rates), strict=True
    ):
        key = group if rates else 0
        groups.setdefault(key, {"params": [], "lr": multiplier * LEARNING_RATE})["params"].append(p)
    return parameters, list(groups.values())


def of_jax(problem, update, state):
    """A compiled step to which its variables are donated, as to a training step."""
    import jax

    held = [jax.numpy.array(p) for p in problem.parameters], state
    gradients = [jax.numpy.array(g) for g in problem.gradients]
    compiled = jax.jit(update, donate_argnums=(0, 1))

    def step():
        nonlocal held
        held = jax.block_until_ready(compiled(*held, gradients))

    return Step(step, lambda: [np.asarray(p) for p in held[0]], None, True)


def fastkeras_jax(problem, rates, clip):
    import jax.numpy as jnp

    from fastkeras.optimizers import transforms, update

    count = len(problem.parameters)
    settings = {
        "learning_rate": LEARNING_RATE,
        "weight_decays": [WEIGHT_DECAY] * count,
        "multipliers": problem.multipliers(rates),
        "transforms": [(transforms.clip_by_global_norm(CLIP),)] * count if clip else None,
        "engine": "jax_native",
    }

    def step(parameters, state, gradients):
        slots, number = state
        new = update("adam", parameters, gradients, slots, step=number, **settings)
        return new.parameters, (new.slots, number + 1)

    slots = [[jnp.zeros(p.shape) for _ in range(2)] for p in problem.parameters]
    return of_jax(problem, step, (slots, jnp.array(1)))


def optax_step(problem, rates, clip):
    import optax

    def adamw(multiplier):
        return optax.adamw(multiplier * LEARNING_RATE, eps=EPSILON, weight_decay=WEIGHT_DECAY)

    optimizer = adamw(1.0)
    if rates:
        of_group = dict(zip(problem.groups, problem.multipliers(rates), strict=True))
        own = {group: adamw(multiplier) for group, multiplier in of_group.items()}
        optimizer = optax.multi_transform(own, problem.groups)
    if clip:
        optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optimizer)

    def step(parameters, state, gradients):
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state

    import jax

    return of_jax(problem, step, jax.jit(optimizer.init)(problem.parameters))


def sweep(problem, rates, clip):
    """A loop that only moves bytes: it reads four arrays and writes three of them back."""
    import numba

    @numba.njit(parallel=True)
    def move(p, g, m, v):
        for i in numba.prange(p.size):
            x = g[i]
            p[i] += x
            m[i] += x
            v[i] += x

    size = sum(p.size for p in problem.parameters)
    arrays = [np.ones(size, np.float32) for _ in range(4)]  # zeros could all share one page
    return Step(lambda: move(*arrays), None)


def check(problem, found, rates, clip, epsilon_comes_late):
    """Assert that the first step is right, and return its largest error in units of 2^-23 · |p|."""
    norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in problem.gradients))
    scale = min(1.0, CLIP / norm) if clip else 1.0
    worst = 0.0
    for p, g, new, multiplier in zip(
        problem.parameters, problem.gradients, found, problem.multipliers(rates), strict=True
    ):
        part = slice(0, 20_000)
        p, g = (a.reshape(-1)[part].astype(np.float64) for a in (p, g * np.float32(1)))
        rate, g = LEARNING_RATE * multiplier, g * scale
        # Keras adds epsilon before the bias correction of the root, torch and optax after.
        epsilon = EPSILON if epsilon_comes_late else EPSILON / np.sqrt(1 - 0.999)
        exact = p * (1 - rate * WEIGHT_DECAY) - rate * g / (np.abs(g) + epsilon)
        error = np.abs(new.reshape(-1)[part] - exact)
        assert error.max() < 1e-3 * rate, f"wrong by {error.max():.3g} at a rate of {rate:.3g}"
        worst = max(worst, error.max() / np.abs(exact).max() * 2**23)
    return float(worst)


PROVIDERS = {
    "fastkeras": fastkeras_step,
    "fastkeras, 8 bits": fastkeras_8_bits,
    "fastkeras, 16 bits": fastkeras_16_bits,
    "fastkeras, NumPy": fastkeras_numpy,
    "fastkeras, XLA": fastkeras_xla,
    "keras": keras_step,
    "keras, XLA": keras_xla,
    "keras MultiOptimizer": keras_multi_optimizer,
    "torch fused": torch_fused,
    "fastkeras, torch": fastkeras_torch,
    "bytes moved": sweep,
    "fastkeras, JAX": fastkeras_jax,
    "optax": optax_step,
}
ON_JAX = ("fastkeras, JAX", "optax")
EPSILON_COMES_LATE = ("torch fused", "fastkeras, torch", "optax")  # after the bias correction
