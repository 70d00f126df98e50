"""Checks for the arguments of the CRF layer, and the names that other libraries have for them."""

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


def check_scores(transition_rank, learning_rate_multiplier):
    """Raise for arguments of the layer that are out of range."""
    rank = transition_rank
    if rank is not None and (not is_integer(rank) or rank < 1):
        raise ValueError(f"transition_rank must be an integer >= 1 or None, got {rank!r}")
    if not learning_rate_multiplier > 0:
        raise ValueError(
            f"learning_rate_multiplier must be above 0, got {learning_rate_multiplier!r}"
        )


def what_is_meant(unknown, function):
    """The part of an error message that suggests known arguments for unknown ones."""
    known = [name for name in signature(function).parameters if name not in ("self", "kwargs")]
    found = {name: ELSEWHERE.get(name) or nearest(name, known) for name in unknown}
    meant = [f"{name!r} may mean {near!r}" for name, near in found.items() if near]
    return f" ({'; '.join(meant)})" if meant else ""
