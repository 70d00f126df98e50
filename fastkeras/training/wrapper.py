"""A wrapper that is called as its layer is, also if that takes several inputs."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor


class LayerWrapper(keras.layers.Wrapper):
    """Passes inputs, keyword arguments and masks on to the layer, whose shapes are its own.

    Args:
        layer: any layer.
        **options: of `keras.layers.Layer`; the dtype is that of the layer unless given.
    """

    def __init__(self, layer: keras.Layer, **options: Any) -> None:
        if isinstance(layer, keras.Layer):  # else Keras raises
            options = {**_casting(layer), **options}
        super().__init__(layer, **options)
        self._call_signature = inspect.signature(layer.call)  # Keras passes masks by it
        self.supports_masking = True

    def __call__(self, *inputs: Any, **options: Any) -> Tensor:
        """The layer's output; the layer is built by its first inputs."""
        if not self.layer.built and _count(inputs) + _count(options) > 1:
            # `build` gets only one shape; calling a layer of several inputs builds it
            with keras.name_scope(self.name, caller=self):
                specs = keras.tree.map_structure(_spec, (inputs, options))
                self.layer(*specs[0], **specs[1])
        return super().__call__(*inputs, **options)

    def build(self, input_shape: Any = None) -> None:
        """Build the layer."""
        if not self.layer.built:
            self.layer.build(input_shape)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """That of the layer."""
        return self.layer.compute_mask(inputs, previous_mask)

    def compute_output_shape(self, *shapes: Any, **named: Any) -> tuple[int | None, ...]:
        """That of the layer, with the same arguments."""
        return self.layer.compute_output_shape(*shapes, **named)

    def compute_output_spec(self, *inputs: Any, **options: Any) -> Any:
        """That of the layer."""
        return self.layer.compute_output_spec(*inputs, **options)


def _casting(layer):
    """Options by which inputs are cast as by the layer, and not before to the global dtype."""
    policy = layer.dtype_policy
    if policy.quantization_mode is not None:  # a wrapper has nothing to quantize
        policy = policy.compute_dtype
    casts = layer.autocast and getattr(layer, "_convert_input_args", True)  # functional: not
    return {"dtype": policy, "autocast": casts}


def _is_tensor(value):
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _count(arguments):
    return sum(_is_tensor(value) for value in keras.tree.flatten(arguments))


def _spec(value):
    return keras.KerasTensor(value.shape, dtype=value.dtype) if _is_tensor(value) else value
