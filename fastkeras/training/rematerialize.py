"""Layers that keep no activations for the backward pass, and compute them a second time."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import keras
from keras import backend

from fastkeras._keras_private import (
    get_global_attribute,
    get_keras_mask,
    set_global_attribute,
    set_keras_mask,
)
from fastkeras.training.substitution import Substitution, value_of
from fastkeras.training.wrapper import LayerWrapper

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
class Rematerialize(LayerWrapper):
    """Call a layer without keeping its activations: the backward pass computes them once more.

    In place of all that happens inside of the layer, only its inputs stay in memory until the
    backward pass, which takes a second forward pass of the layer longer. Wrap each block of a
    network, not the whole.

    Values and gradients are those of the layer. The second pass draws the same noise as the first,
    and what the layer changes (moving statistics, random seeds) is changed once. `keras.RematScope`
    (Keras 3.15) draws other noise there on torch, so that gradients through Dropout are wrong; it
    fails in compiled training on TensorFlow, and on JAX with layers that ask for `training`.

    Args:
        layer: any layer or model. The wrapper is called as the layer is.
        **options: of `keras.layers.Layer`.

    Returns:
        What the layer returns.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.layers import Rematerialize
        >>> model = keras.Sequential([keras.Input((8,))])
        >>> for _ in range(3):
        ...     block = [keras.layers.Dense(32, "gelu"), keras.layers.Dropout(0.1)]
        ...     model.add(Rematerialize(keras.Sequential([*block, keras.layers.Dense(8)])))
        >>> model.compile("adam", "mse")
        >>> history = model.fit(np.ones((4, 8)), np.ones((4, 8)), verbose=0)

    Source: Chen, Xu, Zhang & Guestrin, 2016, "Training deep nets with sublinear memory cost", arXiv
        1604.06174; Su Jianlin, 2020, https://kexue.fm/archives/7367.
    """

    def __init__(self, layer: keras.Layer, **options: Any) -> None:
        super().__init__(layer, **options)

    def call(self, *inputs: Any, **options: Any) -> Tensor:
        """The layer's output."""
        flat = keras.tree.flatten((inputs, options))
        places = [i for i, value in enumerate(flat) if _is_float(value)]
        masks = [get_keras_mask(value) if _is_tensor(value) else None for value in flat]
        trained = list(self.layer.trainable_variables)
        known = {id(v) for v in trained}
        changing = [v for v in self.layer.variables if id(v) not in known]
        state = [value_of(v) for v in changing]
        if backend.backend() == "torch":  # which assigns in place, before the second pass
            state = [value.clone() for value in state]
        context = copy.copy(get_global_attribute("current_call_ctx"))  # whether it trains

        def run(values, floats):
            given = list(flat)
            for place, value in zip(places, floats, strict=True):
                given[place] = value
                if masks[place] is not None:
                    set_keras_mask(given[place], masks[place])
            inputs_here, options_here = keras.tree.pack_sequence_as((inputs, options), given)
            outer = get_global_attribute("current_call_ctx")
            set_global_attribute("current_call_ctx", copy.copy(context))
            try:
                pairs = [*zip(trained, values, strict=True), *zip(changing, state, strict=True)]
                with _Alone(pairs) as scope:
                    outputs = self.layer(*inputs_here, **options_here)
                new = [scope.get_current_value(v) for v in changing]
            finally:
                set_global_attribute("current_call_ctx", outer)
            return outputs, list(scope.losses), new

        floats = [flat[place] for place in places]
        outputs, losses, new = _WITHOUT_ACTIVATIONS[backend.backend()](
            run, [value_of(v) for v in trained], floats
        )
        for variable, before, after in zip(changing, state, new, strict=True):
            if after is not before:
                variable.assign(after)
        for loss in losses:
            self.add_loss(loss)
        return outputs


class _Alone(Substitution):
    """Keeps changes and losses to itself, so that the call can be repeated."""

    def __init__(self, values):
        super().__init__(values, keep_updates=False)

    def __enter__(self):
        super().__enter__()
        self.collect_losses = True
        return self

    def add_loss(self, loss):
        """Keep a loss."""
        keras.StatelessScope.add_loss(self, loss)


def _tensorflow(run, values, floats):
    import tensorflow as tf

    first = []  # what is no result to differentiate: integers, and the new state

    @tf.recompute_grad
    def again(*tensors):
        outputs, losses, new = run(tensors[: len(values)], tensors[len(values) :])
        flat = keras.tree.flatten((outputs, losses))
        if not first:
            first.append(((outputs, losses), new))
        return [tf.convert_to_tensor(x) for x in flat]

    flat = again(*values, *floats)
    structure, new = first[0]
    outputs, losses = keras.tree.pack_sequence_as(structure, list(flat))
    return outputs, losses, new


def _jax(run, values, floats):
    import jax

    return jax.checkpoint(run)(values, floats)


def _torch(run, values, floats):
    from torch.utils.checkpoint import checkpoint

    return checkpoint(run, values, floats, use_reentrant=False)


_WITHOUT_ACTIVATIONS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


def _is_tensor(value):
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _is_float(value):
    return _is_tensor(value) and backend.is_float_dtype(backend.standardize_dtype(value.dtype))
