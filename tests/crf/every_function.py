"""A call of every function of fastkeras.crf that takes emissions, for arrays of any family.

It imports no framework, since it is also for places that have none.
"""

from functools import partial
from inspect import isfunction, signature

import numpy as np

from fastkeras import crf

MODULES = (crf, crf.constraints, crf.memm, crf.second_order, crf.semi_markov)
NUM_TAGS = 3


def arguments(dtype="float64"):
    """Return values for the arguments of all functions, by name; one transition is forbidden."""
    rng = np.random.default_rng(11)
    shapes = {
        **dict.fromkeys(("emissions", "other_emissions"), (3, 5, NUM_TAGS)),
        **dict.fromkeys(("transitions", "other_transitions"), (NUM_TAGS, NUM_TAGS)),
        **dict.fromkeys(("start_transitions", "end_transitions"), (NUM_TAGS,)),
        "triples": (NUM_TAGS,) * 3,
        "durations": (2, NUM_TAGS),
    }
    scores = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    scores["transitions"][0, 2] = -np.inf
    mask = np.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]], bool)
    return scores | {
        "lengths": np.array([5, 4, 3]),
        "mask": mask,
        "tags": np.where(mask, [[1, 2, 0, 1, 1]], -100),
        "allowed": rng.random((5, NUM_TAGS)) < 0.8,
        "weights": np.array([1.0, 0.5, 2.0], dtype),
        "costs": np.array([[0, 1, 2], [1, 0, 0.5], [3, 1, 0]], dtype),
        "constraints": crf.constraints.allowed("BIO", ["O", "B", "I"]),
        "spans": [(0, 0, 2), (1, 1, 4)],
        "label_smoothing": 0.1,
        "num_samples": 2,
        "num_paths": 4,
        "seed": 5,
        "k": 3,
    }


def calls(array, dtype="float64"):
    """Return the functions with their arguments, made by `array`, under their names in `crf`."""
    given = {
        name: array(value) if isinstance(value, np.ndarray) else value
        for name, value in arguments(dtype).items()
    }

    def with_arguments(function):
        names = [name for name in signature(function).parameters if name in given]
        return partial(function, **{name: given[name] for name in names})

    functions = {}
    for module in MODULES:
        prefix = f"{module.__name__}.".removeprefix("fastkeras.crf.") if module is not crf else ""
        for name in module.__all__:
            function = getattr(module, name)
            if isfunction(function) and "emissions" in signature(function).parameters:
                functions[prefix + name] = with_arguments(function)

    pair_chain = functions["second_order.pair_chain"]

    def of_pairs():
        chain = pair_chain()
        states, scores = crf.k_best(k=3, **chain.arguments)
        valid = chain.arguments["mask"]  # elsewhere tags and states mean nothing
        tags = chain.tags(states) * valid[:, None]
        return tags, scores, chain.states(given["tags"]) * valid

    factors = crf.LowRank(given["other_transitions"][:, :2], given["other_transitions"][:, 1:])
    ends = [given[f"{name}_transitions"] for name in ("start", "end")]
    return functions | {
        "second_order.pair_chain": of_pairs,
        "memm.locally_normalized of low rank": partial(
            functions["memm.locally_normalized"], transitions=factors
        ),
        "constraints.Constraints.apply": lambda: tuple(
            given["constraints"].apply(given["transitions"], *ends).values()
        ),
        "constraints.bitmap_of_tags": lambda: crf.constraints.bitmap_of_tags(given["tags"], 3),
    }


def leaves(result):
    """Return the arrays of a result."""
    if isinstance(result, tuple):
        return [leaf for part in result for leaf in leaves(part)]
    return [result]
