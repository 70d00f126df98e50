"""Settings of an optimizer by variable: as given, resolved for each variable, and saved.

Resolved settings are saved with the path and the shape of each variable. So they are restored to
the right variables, whatever their order and whichever of them are trained, or an error is raised.
"""

import re
from numbers import Real
from typing import NamedTuple

import keras

from fastkeras.optimizers import transforms as transform
from fastkeras.optimizers.fused import matching


class Saved(NamedTuple):
    """A setting of a built optimizer, as saved: a value for each path."""

    paths: list
    shapes: list
    values: list


def transforms(given):
    """Return `gradient_transforms` as pairs `(target, chain)`, or as `Saved`."""
    if given is None:
        return []
    saved = saved_in(given)
    if saved is not None:
        return saved._replace(values=[tuple(_deserialized(steps)) for steps in saved.values])
    if callable(given) or isinstance(given, transform.Transform) or _is_chain(given):
        return [("", transform.chain(given))]  # "" matches every path
    entries = given.items() if isinstance(given, dict) else given
    entries = [_deserialized(entry) for entry in matching.listed("gradient_transforms", entries)]
    return [
        (target, transform.chain(steps))
        for target, steps in matching.pairs("gradient_transforms", entries)
    ]


def numbers(argument, given):
    """Return pairs `(target, number)`, or `Saved`, from the argument of that name."""
    if given is None:
        return []
    saved = saved_in(given)
    if saved is not None:
        return saved
    pairs = matching.pairs(argument, given)
    for target, number in pairs:
        if isinstance(number, bool) or not _is_finite(number):
            raise ValueError(f"{argument}: {target!r} must have a finite number, got {number!r}")
    return [(target, float(number)) for target, number in pairs]


def _is_finite(number):
    return isinstance(number, Real) and -float("inf") < number < float("inf")


def flags(argument, given):
    """Return True, None, a list of targets, or `Saved`."""
    if given is None or given is False:
        return None
    if given is True:
        return True
    saved = saved_in(given)
    if saved is not None:
        return saved
    return [given] if isinstance(given, (str, keras.Layer)) else matching.listed(argument, given)


def resolve_flags(argument, given, variables, if_true):
    """Return a bool for each variable."""
    if given is None:
        return [False] * len(variables)
    if given is True:
        return list(if_true)
    if isinstance(given, Saved):
        return values_for(argument, given, variables)
    found = matching.resolve(argument, [(target, True) for target in given], variables)
    return [k is not None for k in found]


def resolve_transforms(given, variables):
    """Return the chain of each variable; global norms know their group by number."""
    if isinstance(given, Saved):
        return values_for("gradient_transforms", given, variables)
    found = matching.resolve("gradient_transforms", given, variables)
    return [() if k is None else _numbered(given[k][1], k) for k in found]


def resolve_numbers(argument, given, variables):
    """Return the number of each variable, None where no target matches it."""
    if isinstance(given, Saved):
        return values_for(argument, given, variables)
    found = matching.resolve(argument, given, variables)
    return [None if k is None else float(given[k][1]) for k in found]


def saved_in(given):
    """Return the values of a built optimizer that `serialized` has saved, or None."""
    if isinstance(given, Saved):
        return given
    if isinstance(given, dict) and set(given) == {*Saved._fields}:
        return Saved(**given)
    return None


def values_for(argument, saved, variables):
    """Return the saved value of each variable.

    Variables are recognised by their paths. After `load_model` paths begin differently, so one may
    be the end of the other. If that is ambiguous, or unnamed layers have other numbers, as after
    loading a model of one's own class, the order decides, provided that in this order the shapes
    agree, and the names except for their numbers.

    Raises:
        ValueError: these are not the variables for which the setting was saved.
    """
    paths = [matching.path_of(variable) for variable in variables]
    if len(set(saved.paths)) == len(saved.paths):
        values = dict(zip(saved.paths, saved.values, strict=True))
        if set(paths) <= set(values):
            return [values[path] for path in paths]
    ends = [[k for k, other in enumerate(saved.paths) if _is_end(path, other)] for path in paths]
    found = [k[0] for k in ends if len(k) == 1]
    if len(set(found)) == len(paths):
        return [saved.values[k] for k in found]
    shapes = [list(variable.shape) for variable in variables]
    if shapes == [list(shape) for shape in saved.shapes] and all(
        _is_end(_unnumbered(path), _unnumbered(other))
        for path, other in zip(paths, saved.paths, strict=True)
    ):
        return list(saved.values)
    raise ValueError(_of_others(argument, saved, paths, ends))


def _is_end(path, other):
    """Tell whether one path is the end of the other."""
    path, other = path.split("/"), other.split("/")
    count = min(len(path), len(other))
    return path[-count:] == other[-count:]


def _unnumbered(path):
    return re.sub(r"_\d+(?=/|$)", "", path)


def _of_others(argument, saved, paths, ends):
    new = [path for path, found in zip(paths, ends, strict=True) if not found]
    gone = [path for path in saved.paths if not any(_is_end(path, other) for other in paths)]
    text = f"{argument} was saved for {len(saved.paths)} variables and is built with {len(paths)}"
    text += f"; it says nothing of {_few(new)}" if new else ""
    text += f"; no longer there: {_few(gone)}" if gone else ""
    return f"{text}. Give {argument} anew, for instance as pairs (pattern, value)"


def _few(paths):
    return ", ".join(map(repr, paths[:3])) + (f" and {len(paths) - 3} more" * (len(paths) > 3))


def serialized(settings, variables=None):
    """Return the settings that are not defaults, in a form that can be written as JSON.

    Args:
        settings: dict from names to what was given, or to lists of values, one for each variable.
        variables: the list of these variables in the latter case.
    """
    config = {}
    for name, value in settings.items():
        if variables is not None and not isinstance(value, Saved):
            if all(_is_default(name, entry) for entry in value):
                continue
            paths = [matching.path_of(variable) for variable in variables]
            value = Saved(paths, [list(variable.shape) for variable in variables], value)
        if isinstance(value, Saved):
            fields = (value.paths, value.shapes, _serialized(name, value.values))
            config[name] = dict(zip(Saved._fields, map(_as_lists, fields), strict=True))
        elif callable(value) or not (value is None or (value is not True and len(value) == 0)):
            config[name] = _serialized(name, value)
    return config


def _is_default(name, entry):
    """Tell whether a variable's value is the default; a decay of 0.0 is not."""
    if name == "learning_rate_multipliers":
        return entry == 1
    return entry is None or entry is False or (isinstance(entry, tuple) and len(entry) == 0)


def _as_lists(value):
    return [_as_lists(part) for part in value] if isinstance(value, (list, tuple)) else value


def _serialized(name, value):
    if callable(value):
        return keras.saving.serialize_keras_object(value)
    if isinstance(value, transform.Transform):
        return {"transform": list(value)}
    if isinstance(value, (list, tuple)):
        return [_serialized(name, part) for part in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ValueError(f"{name} can be saved once the optimizer is built: {value!r} is no pattern")


def _deserialized(value):
    if isinstance(value, dict) and "transform" in value:
        return transform.Transform(*value["transform"])
    if isinstance(value, dict):
        return keras.saving.deserialize_keras_object(value)
    if isinstance(value, list):
        return tuple(_deserialized(part) for part in value)
    return value


def _is_chain(entry):
    is_sequence = isinstance(entry, (list, tuple)) and not isinstance(entry, transform.Transform)
    return is_sequence and all(
        isinstance(step, transform.Transform)
        or (callable(step) and not isinstance(step, keras.Layer))
        for step in entry
    )


def _numbered(steps, entry):
    numbers = {"all": 0, "group": entry + 1}
    return tuple(
        step if callable(step) else step._replace(of=numbers.get(step.of, step.of))
        for step in steps
    )
