"""Optimizer steps drawn by hypothesis, and how accurate they have to be."""

from importlib import import_module

import ml_dtypes  # noqa: F401  (NumPy then knows bfloat16)
import numpy as np
from hypothesis import strategies as st

from accuracy import assert_as_accurate_as_reference
from fastkeras.optimizers import transforms, update
from fastkeras.optimizers.rules import RULES

FUSED_RULES = [rule for rule, row in RULES.items() if row.has_kernel]
SIZES = (0, 1, 3, 16, 17, 100, 2048, 2049, 16384, 40000)
COMMON = transforms.clip_by_global_norm(0.7)
CHAINS = (
    (),
    (transforms.scale(-0.3),),
    (transforms.zero(),),
    (transforms.clip_by_value(0.5),),
    (transforms.clip_by_norm(0.3),),
    (transforms.clip_by_l1_norm(3.0),),
    (transforms.normalize(),),
    (transforms.add_decayed_weights(0.1),),
    (COMMON,),
    (transforms.sanitize(), transforms.clip_by_norm(0.3)),
    (transforms.sanitize(), transforms.add_decayed_weights(0.2), transforms.normalize()),
    (transforms.clip_by_norm(2.0), transforms.scale(3.0), COMMON, transforms.clip_by_value(0.01)),
    (transforms.centralize(), transforms.clip_by_norm(1.0)),
    (transforms.adaptive_clip(0.01), transforms.scale(2.0)),
    (lambda gradient, variable: gradient + variable, COMMON),
)
WIDE = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}


def has_rule(engine, rule):
    """Tell whether an engine has a rule; rules that do not exist it may refuse itself."""
    every = hasattr(import_module(f"fastkeras.optimizers._engines.{engine}"), "EVERY_RULE")
    return every or rule not in [*RULES] or RULES[rule].has_kernel


@st.composite
def problems(draw, rules=FUSED_RULES, dtypes=("float32", "float64"), chains=CHAINS, mixed=False):
    """Draw the arguments of `update`, and the gradients of three steps.

    All have one dtype unless `mixed`, since a global norm of float32 is not exact in float64.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    rule = draw(st.sampled_from(rules), label="rule")
    sizes = draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=4), label="sizes")
    shapes = [(size,) if size % 4 or draw(st.booleans()) else (size // 4, 4) for size in sizes]
    per_variable = {"min_size": len(shapes), "max_size": len(shapes)}
    scale = draw(st.sampled_from((1e-4, 1.0, 100.0)), label="scale of the gradients")
    of = [np.dtype(draw(st.sampled_from(dtypes), label="dtype")) for _ in shapes]
    of = of if mixed else of[:1] * len(shapes)
    settings = {
        "multipliers": draw(st.lists(st.sampled_from((0.0, 0.1, 1.0, 3.0)), **per_variable)),
        "weight_decays": draw(st.lists(st.sampled_from((0.0, 0.01, 0.3)), **per_variable)),
        "transforms": draw(st.lists(st.sampled_from(chains), **per_variable)),
        "learning_rate": draw(st.sampled_from((1e-3, 0.1))),
    }
    first = draw(st.sampled_from((1, 2, 1000)), label="first step")
    parameters = [rng.standard_normal(shape).astype(d) for shape, d in zip(shapes, of, strict=True)]
    gradients = [
        [
            (scale * rng.standard_normal(shape)).astype(d)
            for shape, d in zip(shapes, of, strict=True)
        ]
        for _ in range(3)
    ]
    return rule, parameters, gradients, first, settings


def run(problem, engine, dtype=None, sizes=None):
    """Do the steps of a problem; return parameters and slots.

    `dtype` replaces all dtypes. The largest magnitude of each array, before and after each step, is
    added to the list `sizes`.
    """
    rule, parameters, gradients, first, settings = problem
    parameters = [p.astype(dtype or p.dtype) for p in parameters]
    slots = [
        tuple(np.zeros(p.shape, WIDE.get(p.dtype.name, p.dtype)) for _ in RULES[rule].slots)
        for p in parameters
    ]
    arrays = [*parameters, *(slot for of_parameter in slots for slot in of_parameter)]
    largest = [np.abs(array).max(initial=0) for array in arrays]
    product = 1.0
    for step, of_step in enumerate(gradients, start=first):
        product *= 0.9 * (1 - 0.5 * 0.96**step)
        more = {"u_product": product} if rule == "nadam" else {}
        of_step = [g.astype(p.dtype) for g, p in zip(of_step, parameters, strict=True)]
        assert update(
            rule, parameters, of_step, slots, step=step, engine=engine, **settings, **more
        )
        largest = [np.abs(a).max(initial=size) for a, size in zip(arrays, largest, strict=True)]
    if sizes is not None:
        sizes += largest
    return arrays


def check(problem, engine):
    """Assert that parameters, and each kind of slot, are as accurate as the reference's.

    Errors are in units of the largest number that the array had at any time: a step rounds a sum of
    two numbers, and is at most as long as both together, so that it rounds by ulps of these, also
    if the last step leaves little of them. Arrays of one dtype are judged together, since the
    reference may be exact by luck on a few numbers.
    """
    sizes = []
    results, rounded = run(problem, engine), run(problem, "reference")
    exact = run(problem, "reference", np.longdouble, sizes)
    count, num_slots = len(problem[1]), len(RULES[problem[0]].slots)
    kinds = ["parameter"] * count + list(range(num_slots)) * count
    together = {}
    for kind, size, *arrays in zip(kinds, sizes, results, exact, rounded, strict=True):
        unit = 2.0 ** -np.floor(np.log2(max(size, 1e-30)))
        key = kind, arrays[0].dtype.name
        together.setdefault(key, []).append([a.reshape(-1) * a.dtype.type(unit) for a in arrays])
    steps = len(problem[2])
    for group in together.values():
        result, of_exact, of_rounded = map(np.concatenate, zip(*group, strict=True))
        assert_as_accurate_as_reference(result, of_exact, of_rounded, scale=1.0, steps=steps)
