"""The prior that a generated token already occurs in the source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.seq2seq.arguments import integer
from fastkeras.training.arguments import flag

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
class CopyPrior(keras.layers.Layer):
    """The logits together with a prior that knows which tokens the source contains.

    With χ_v = 1 if the token v is in the source and else 0, and s and t learned for each token,
        (logits_v + exp(s_v) χ_v + t_v) / 2
    s and t are initially zero. Useful where the output mostly consists of words of the input, as a
    headline does of words of its article.

    With a gate, which is computed from hidden states h by learned w and b, initially zero,
        logits_v + g (exp(s_v) χ_v + t_v),    g = sigmoid(w·h + b)
    so that each step decides how much it copies. The average halves the logits, so that a network
    needs more training for equally certain ones; here it need not.

    Args:
        padding: the token that stands for padding, 0 by default.
        gated: whether there is a gate.
        **options: those of `keras.layers.Layer`.

    Call:
        logits: (batch, steps, vocabulary_size).
        in_source: χ, (batch, vocabulary_size), or the tokens of the source, integers (batch, source
            steps); tokens up to `padding` do not count.
        hidden: (batch, steps, size), for the gate.

    Raises:
        ValueError: `hidden` is missing, or given without a gate; an argument out of range.

    Example:
        >>> import numpy as np
        >>> from fastkeras.layers import CopyPrior
        >>> logits, source = np.zeros((1, 1, 4), "float32"), np.array([[2, 3, 2, 0]])
        >>> CopyPrior()(logits, source)[0, 0].numpy()
        array([0. , 0. , 0.5, 0.5], dtype=float32)
        >>> CopyPrior(gated=True)(logits + 1, source, np.ones((1, 1, 8)))[0, 0].numpy()
        array([1. , 1. , 1.5, 1.5], dtype=float32)

    Source: Su Jianlin, 2018, https://kexue.fm/archives/5861 (its `ScaleShift`).
    """

    def __init__(self, padding: int = 0, gated: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.padding = integer("padding", padding, 0)
        self.gated = flag("gated", gated)
        self.gate: Any = None
        if self.gated:
            self.gate = keras.layers.Dense(
                1,
                activation="sigmoid",
                kernel_initializer="zeros",
                name="gate",
                dtype=self.dtype_policy,
            )

    def build(
        self, logits_shape: Any, in_source_shape: Any = None, hidden_shape: Any = None
    ) -> None:
        size = (logits_shape[-1],)
        self.log_scale = self.add_weight(name="log_scale", shape=size, initializer="zeros")
        self.shift = self.add_weight(name="shift", shape=size, initializer="zeros")
        if self.gated:
            self._expect(hidden_shape)
            self.gate.build(hidden_shape)
        self.built = True

    def call(self, logits: Tensor, in_source: Tensor, hidden: Tensor = None) -> Tensor:
        self._expect(hidden)
        if keras.backend.is_int_dtype(in_source.dtype):
            in_source = tokens_in(in_source, logits.shape[-1], logits.dtype, self.padding)
        prior = (ops.exp(self.log_scale) * in_source + self.shift)[:, None]
        return logits + self.gate(hidden) * prior if self.gated else (logits + prior) / 2

    def _expect(self, hidden):
        if (hidden is not None) != self.gated:
            raise ValueError(
                "hidden must be given for a CopyPrior with gated=True and for no other, got "
                f"{'None' if hidden is None else 'one'}"
            )

    def compute_output_shape(
        self, logits_shape: Any, in_source_shape: Any = None, hidden_shape: Any = None
    ) -> tuple[int | None, ...]:
        return logits_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.padding, "gated": self.gated}


def tokens_in(source, vocabulary_size, dtype="float32", padding=0):
    """χ, (batch, vocabulary_size): 1 for each token that occurs in the source, else 0."""
    source = ops.cast(ops.convert_to_tensor(source), "int32")
    rows = ops.shape(source)[0]
    place = ops.arange(rows, dtype="int32")[:, None] * (vocabulary_size + 1)
    place = place + ops.where(source > padding, source, vocabulary_size)
    place = ops.reshape(place, (-1, 1))
    counts = ops.scatter(place, ops.ones_like(place[:, 0]), (rows * (vocabulary_size + 1),))
    counts = ops.reshape(counts, (rows, vocabulary_size + 1))[:, :vocabulary_size]
    return ops.cast(counts > 0, dtype)


def copy_prior_of(kind, dtype):
    """The `CopyPrior` that a decoder's `copy_prior` names, None if it names none."""
    if kind not in (None, "averaged", "gated"):
        raise ValueError(f"copy_prior={kind!r} must be 'averaged', 'gated' or None")
    return CopyPrior(gated=kind == "gated", name="copy_prior", dtype=dtype) if kind else None


def name_of(prior):
    """The `copy_prior` of a decoder that has this `CopyPrior`, or None."""
    return prior and ("gated" if prior.gated else "averaged")
