"""Settings by variable: which entry of a list of `(target, value)` a variable gets."""

import difflib
import math
import re

import keras


def resolve(argument, entries, variables):
    """Return for each variable the index of the first entry that matches it, or None.

    Args:
        argument: the argument's name, for errors.
        entries: list of `(target, value)`; a target is a regular expression that is searched in
            `variable.path`, a variable, a layer or model, or a list of any of these.
        variables: list of variables.

    Raises:
        ValueError: a target matches no variable.
    """
    sets = [_matches(target, variables) for target, _ in entries]
    for (target, _), matches in zip(entries, sets, strict=True):
        if not any(matches):
            raise ValueError(
                f"{argument}: {_named(target)} matches no variable; {_near(target, variables)}"
            )
    columns = zip(*sets, strict=True) if sets else [()] * len(variables)
    return [next((k for k, match in enumerate(column) if match), None) for column in columns]


def pairs(argument, entries):
    """Return a list of `(target, value)` from a dict or a sequence of pairs."""
    entries = listed(argument, entries.items() if isinstance(entries, dict) else entries)
    for entry in entries:
        if not isinstance(entry, (tuple, list)) or len(entry) != 2:
            raise TypeError(f"{argument} must be pairs (target, value), got {entry!r}")
        if isinstance(entry[0], str):
            try:
                re.compile(entry[0])
            except re.error as error:
                raise ValueError(
                    f"{argument}: {entry[0]!r} is no regular expression: {error}"
                ) from None
    return [tuple(entry) for entry in entries]


def listed(argument, entries):
    """Return the entries as a list; raise if they are not a list."""
    if isinstance(entries, str) or not hasattr(entries, "__iter__"):
        raise TypeError(f"{argument} must be a list, got {entries!r}")
    return list(entries)


def path_of(variable):
    """Return the path of a Keras variable, or the name of another kind of variable."""
    return getattr(variable, "path", None) or variable.name


def variables_of(target):
    """Return the variables of a layer, a model, a variable, or of a list of these."""
    if isinstance(target, (list, tuple)):
        return [variable for part in target for variable in variables_of(part)]
    return list(target.variables) if isinstance(target, keras.Layer) else [target]


def _matches(target, variables):
    if isinstance(target, str):
        return [re.search(target, path_of(variable)) is not None for variable in variables]
    if isinstance(target, (list, tuple)) and any(isinstance(part, str) for part in target):
        each = [_matches(part, variables) for part in target]
        return [any(column) for column in zip(*each, strict=True)]
    chosen = {id(variable) for variable in variables_of(target)}
    return [id(variable) in chosen for variable in variables]


def _named(target):
    return repr(target) if isinstance(target, str) else getattr(target, "name", repr(target))


def _near(target, variables):
    paths = [path_of(variable) for variable in variables]
    near = difflib.get_close_matches(str(_named(target)), paths, n=3, cutoff=0.0)
    return f"the nearest paths are {', '.join(near)}"


def trainable_of(target):
    """Return the trainable variables of a layer, or of a list of layers."""
    if isinstance(target, (list, tuple)):
        return [variable for part in target for variable in trainable_of(part)]
    return list(target.trainable_variables)


def bytes_of(variable):
    """Return the bytes of a variable's values."""
    bits = int(re.search(r"\d+", str(variable.dtype))[0])
    return math.prod(variable.shape) * bits // 8
