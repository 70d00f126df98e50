"""Outputs of layers inside a model, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def intermediate_outputs(
    model: keras.Model, x: Any, names: str | Sequence[str], **options: Any
) -> dict[str, Any]:
    """Call a model and return the outputs of layers inside it, by name.

    Works for any model: functional, nested, subclassed. (For a layer at the top level of a
    functional model, `keras.Model(model.input, model.get_layer(name).output)` does too.)

    Args:
        model: a built model.
        x: its input, a batch.
        names: name of a layer, or the end of its path ("encoder/hidden"), or a list of these.
        options: passed on to the model: training=True.

    Returns:
        A dict of NumPy arrays (or structures of them) by name; for a layer that was called several
        times, a list of these.

    Raises:
        ValueError: `names` are not names, there is no such layer, or it was not called.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> inner = keras.Sequential([keras.layers.Dense(3, name="hidden")])
        >>> model = keras.Sequential([keras.Input((2,)), inner, keras.layers.Dense(1)])
        >>> intermediate_outputs(model, np.ones((4, 2)), "hidden")["hidden"].shape
        (4, 3)
    """
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"names={names!r} must be a name or a list of names")
    paths = dict(_paths(model, ""))
    seen: dict[str, list[Any]] = {name: [] for name in names}
    watched: list[Any] = []
    before: dict[str, Any] = {}
    for name in names:
        layers = [layer for path, layer in paths.items() if f"/{path}".endswith(f"/{name}")]
        if not layers:
            raise ValueError(f"names: {name!r} is no layer of the model: {', '.join(paths)}")
        watched += [(layer, seen[name]) for layer in layers]
        before |= {layer: layer.__dict__.get("call") for layer in layers}
    try:
        for layer, results in watched:
            _record(layer, results)
        model(x, **options)
    finally:
        for layer, call in before.items():
            layer.__dict__.pop("call", None)
            if call is not None:  # the layer itself, not only its class, had a `call`
                layer.__dict__["call"] = call
    for name, results in seen.items():
        if not results:
            raise ValueError(f"names: {name!r} was not called")
    return {name: each[0] if len(each) == 1 else each for name, each in seen.items()}


def _paths(layer, path):
    for inner in layer._layers:
        name = f"{path}/{inner.name}" if path else inner.name
        yield name, inner
        yield from _paths(inner, name)


def _record(layer, results):
    original = layer.call

    def call(*arguments, **options):
        outputs = original(*arguments, **options)
        as_numpy = lambda x: ops.convert_to_numpy(ops.stop_gradient(x))  # noqa: E731
        results.append(keras.tree.map_structure(as_numpy, outputs))
        return outputs

    layer.__dict__["call"] = call
