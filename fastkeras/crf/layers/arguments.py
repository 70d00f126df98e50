"""Arguments of the CRF layers: what other libraries call them, and a check that they share."""

from inspect import signature

from fastkeras._engines import nearest
from fastkeras.training.arguments import is_integer

ELSEWHERE = {  # what other CRF layers call their arguments
    "units": "num_tags",
    "num_labels": "num_tags",
    "num_classes": "num_tags",
    "output_dim": "num_tags",
    "chain_initializer": "transitions_initializer",
    "lr_multiplier": "learning_rate_multiplier",
}


def what_is_meant(unknown, function):
    """The part of an error message that suggests known arguments for unknown ones."""
    known = [name for name in signature(function).parameters if name not in ("self", "kwargs")]
    found = {name: ELSEWHERE.get(name) or nearest(name, known) for name in unknown}
    meant = [f"{name!r} may mean {near!r}" for name, near in found.items() if near]
    return f" ({'; '.join(meant)})" if meant else ""


def ignored_class(label):
    """Return the label of steps that do not count, or None; raise ValueError for anything else."""
    if label is None or is_integer(label):
        return label if label is None else int(label)
    raise ValueError(f"ignore_class={label!r} must be an integer, such as -100, or None")
