"""Layers that score every span of a sequence for every type: nested named entities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.crf.layers.ragged import padded
from fastkeras.tagging.encoders.rotary import rotary_positions
from fastkeras.training.arguments import flag, integer
from fastkeras.training.masking import without_masked

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Identifier, Tensor


class _SpanScores(keras.layers.Layer):
    """What both layers have: arguments, mask, shapes."""

    def __init__(
        self,
        num_types: int,
        head_size: int = 64,
        use_rotary: bool = True,
        use_bias: bool = True,
        kernel_initializer: Identifier = "lecun_normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_types = integer("num_types", num_types, 1)
        self.head_size = integer("head_size", head_size, 2)
        if head_size % 2:
            raise ValueError(f"head_size={head_size} must be even, for rotary positions")
        self.use_rotary = flag("use_rotary", use_rotary)
        self.use_bias = flag("use_bias", use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """(batch, num_types, steps, steps)."""
        batch, steps, _ = input_shape
        return (batch, self.num_types, steps, steps)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """No mask: what is masked scores −inf."""
        return None

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        own = ("num_types", "head_size", "use_rotary", "use_bias")
        initializer = keras.initializers.serialize(self.kernel_initializer)
        config = {name: getattr(self, name) for name in own}
        return {**super().get_config(), **config, "kernel_initializer": initializer}

    def _dense(self, units, channels, name):
        dense = keras.layers.Dense(
            units,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name=name,
        )
        dense.build((None, None, channels))
        return dense

    def _inner_products(self, starts, ends, equation):
        if self.use_rotary:
            starts, ends = rotary_positions(starts), rotary_positions(ends)
        # the scale goes into one factor, so that no product leaves the range of float16
        return ops.einsum(equation, starts * self.head_size**-0.5, ends)


@keras.saving.register_keras_serializable("fastkeras")
class GlobalPointer(_SpanScores):
    """Scores of all spans: s_k(m, n) = ⟨q_k(m), r_k(n)⟩ / √size, for a span from m to n of type k.

    q_k and r_k are linear in the input at the first and at the last step of the span, and are
    turned by their positions (rotary positions), so that the score knows how long the span is. A
    span is found where its score is above 0, independently of all others: so spans may be nested.

    Train it with `fastkeras.losses.SpanCrossentropy`, and decode with
    `fastkeras.tagging.decode_spans`.

    Args:
        num_types: the number of types of spans.
        head_size: the size of q and r, an even number.
        use_rotary: whether they are turned by their positions. Without it the layer does not know
            which start belongs to which end.
        use_bias: whether the linear functions have a bias.
        kernel_initializer: of their kernels.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        inputs: float, shape (batch, steps, channels), or a `tf.RaggedTensor` of that shape.
        mask: bool, shape (batch, steps), or None for the mask that comes with the inputs.

    Returns:
        Scores, shape (batch, num_types, steps, steps), in the compute dtype; [b, k, m, n] is that
        of the span from step m to step n, both included. −inf where n < m, or m or n is masked.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.layers import GlobalPointer
        >>> from fastkeras.losses import SpanCrossentropy
        >>> from fastkeras.metrics import NestedSpanScore
        >>> words = keras.Input((None,), dtype="int32")
        >>> x = keras.layers.Embedding(100, 16, mask_zero=True)(words)
        >>> model = keras.Model(words, GlobalPointer(2, head_size=8)(x))
        >>> model.compile("adam", SpanCrossentropy(), metrics=[NestedSpanScore()])
        >>> spans = np.array([[[0, 3, 1], [1, 1, 0]]])  # first step, last step, type
        >>> history = model.fit(np.array([[5, 6, 7, 8, 0]]), spans, verbose=0)
        >>> sorted(history.history)
        ['loss', 'span_f1']

    Source: Su et al., 2022, "Global Pointer: novel efficient span-based approach for named entity
        recognition", arXiv 2208.03054; https://kexue.fm/archives/8373.
    """

    def build(self, input_shape: Any) -> None:
        """Create the weights for inputs of shape (batch, steps, channels)."""
        units = self.num_types * 2 * self.head_size
        self.dense = self._dense(units, input_shape[-1], "dense")
        self.built = True

    def call(self, inputs: Any, mask: Tensor = None) -> Tensor:
        """See the docstring of the class."""
        inputs, mask = padded(inputs, mask)
        inputs = without_masked(inputs, mask)
        batch, steps = ops.shape(inputs)[:2]
        both = ops.reshape(self.dense(inputs), (batch, steps, self.num_types, 2, self.head_size))
        scores = self._inner_products(both[..., 0, :], both[..., 1, :], "bmkd,bnkd->bkmn")
        return _of_allowed_spans(scores, mask)


@keras.saving.register_keras_serializable("fastkeras")
class EfficientGlobalPointer(_SpanScores):
    """`GlobalPointer` with few parameters a type: what is a span, plus what type it has.

        s_k(m, n) = ⟨q(m), r(n)⟩ / √size + (a_k(m) + b_k(n)) / 2

    q and r are shared by all types; a_k and b_k are linear functions of the concatenated q and r
    before these are turned, with 4 · head_size numbers a type in place of
    2 · head_size · channels.

    Args:
        num_types, head_size, use_rotary, use_bias, kernel_initializer, **kwargs: as in
            `GlobalPointer`.

    Call arguments:
        inputs, mask: as in `GlobalPointer`.

    Returns:
        As `GlobalPointer`.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> import numpy as np
        >>> from fastkeras.layers import EfficientGlobalPointer, GlobalPointer
        >>> x = np.ones((1, 5, 768), "float32")
        >>> layers = EfficientGlobalPointer(10), GlobalPointer(10)
        >>> [layer(x).shape == (1, 10, 5, 5) for layer in layers]
        [True, True]
        >>> [layer.count_params() for layer in layers]
        [101012, 984320]

    Source: Su et al., 2022, arXiv 2208.03054, section 2.2; https://kexue.fm/archives/8877.
    """

    def build(self, input_shape: Any) -> None:
        """Create the weights for inputs of shape (batch, steps, channels)."""
        self.dense = self._dense(2 * self.head_size, input_shape[-1], "dense")
        self.of_types = self._dense(2 * self.num_types, 2 * self.head_size, "of_types")
        self.built = True

    def call(self, inputs: Any, mask: Tensor = None) -> Tensor:
        """See the docstring of the class."""
        inputs, mask = padded(inputs, mask)
        both = self.dense(without_masked(inputs, mask))
        of_types = ops.transpose(self.of_types(both), (0, 2, 1)) / 2
        scores = self._inner_products(
            both[..., : self.head_size], both[..., self.head_size :], "bmd,bnd->bmn"
        )
        scores = scores[:, None] + of_types[:, : self.num_types, :, None]
        scores = scores + of_types[:, self.num_types :, None, :]
        return _of_allowed_spans(scores, mask)


def _of_allowed_spans(scores, mask):
    """The scores, −inf where a span ends before it begins, or begins or ends at a masked step."""
    t = ops.arange(ops.shape(scores)[-1], dtype="int32")
    allowed = (t[:, None] <= t)[None, None]
    if mask is not None:
        mask = ops.cast(mask, "bool")
        allowed = allowed & mask[:, None, :, None] & mask[:, None, None, :]
    return ops.where(allowed, scores, ops.cast(float("-inf"), scores.dtype))
