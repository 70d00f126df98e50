"""Settings of an optimizer by variable: as they are given, resolved by position, and saved."""

import keras

from fastkeras.optimizers import matching
from fastkeras.optimizers import transforms as transform


def transforms(given):
    """Return `gradient_transforms` as pairs `(target, chain)`, or as chains by position."""
    if given is None:
        return []
    if callable(given) or isinstance(given, transform.Transform) or _is_chain(given):
        return [("", transform.chain(given))]  # found in every path
    given = [_deserialized(entry) for entry in given]
    if all(_is_chain(entry) for entry in given):
        return [tuple(entry) for entry in given]
    return [
        (target, transform.chain(steps))
        for target, steps in matching.pairs("gradient_transforms", given)
    ]


def numbers(argument, given):
    """Return pairs `(target, number)`, or numbers by position, from the argument of that name."""
    given = list(given or ())
    if all(entry is None or isinstance(entry, (int, float)) for entry in given):
        return given
    return matching.pairs(argument, given)


def flags(given):
    """Return True, None, a list of targets, or bools by position."""
    if given is None or given is False:
        return None
    if given is True:
        return True
    return [given] if isinstance(given, (str, keras.Layer)) else list(given)


def resolve_flags(argument, given, variables, if_true):
    """Return a bool for each variable."""
    if given is None:
        return [False] * len(variables)
    if given is True:
        return list(if_true)
    if all(isinstance(entry, bool) for entry in given):
        if len(given) != len(variables):
            raise ValueError(f"{argument}: {len(given)} bools for {len(variables)} variables")
        return list(given)
    found = matching.resolve(argument, [(target, True) for target in given], variables)
    return [k is not None for k in found]


def resolve_transforms(given, variables):
    """Return the chain of each variable; global norms know their group by number."""
    if given and all(_is_chain(entry) for entry in given):
        chains = given
        if len(chains) != len(variables):
            raise ValueError(
                f"gradient_transforms: {len(chains)} chains for {len(variables)} variables"
            )
        return chains
    found = matching.resolve("gradient_transforms", given, variables)
    return [() if k is None else _numbered(given[k][1], k) for k in found]


def resolve_numbers(argument, given, variables):
    """Return the number of each variable, None where no target matches it."""
    if given and not isinstance(given[0], tuple):
        return given
    found = matching.resolve(argument, given, variables)
    return [None if k is None else float(given[k][1]) for k in found]


def serialized(settings):
    """Return what of the settings says something, in a form that JSON takes."""
    config = {}
    for name, value in settings.items():
        if name == "learning_rate_multipliers" and not callable(value):
            value = None if value and all(x == 1 for x in value) else value
        if not value or (value is not True and all(entry in ((), None, False) for entry in value)):
            continue
        config[name] = _serialized(name, value)
    return config


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
