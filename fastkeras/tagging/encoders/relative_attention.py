"""Multi-head attention that knows how far apart two steps are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from fastkeras._keras_private import set_keras_mask
from fastkeras.tagging.encoders.relative_positions import RelativePositionBias, ranges
from fastkeras.training.arguments import integer
from fastkeras.training.masking import normalized, without_masked

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor

FARTHEST = {"bias": 128, "sinusoids": 64, "vectors": 64}  # max_distance, if it is not given


@keras.saving.register_keras_serializable("fastkeras")
class RelativeMultiHeadAttention(keras.layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` that also looks at how far apart two steps are.

    With d the distance from query to key, position of the key − position of the query, `positions`
    is one of

        bias        score = ⟨q, k⟩ / √key_dim + b[head, bucket of d], as in T5
        sinusoids   score = ⟨q, k + a[d]⟩ / √key_dim, and Σ weight · (v + a[d]) of the values, with
                    a[d] fixed, as in NEZHA
        vectors     the same with trained vectors, other ones for keys and for values (Shaw et al.)

    For a[d], distances beyond `max_distance` count as `max_distance`, in either direction.

    Everything else is that of Keras' layer: arguments, masks, dropout, `use_causal_mask`,
    `return_attention_scores`. The b are initially 0, so that "bias" starts as that layer. Nothing
    at masked steps is felt, not even a NaN.

    Args:
        num_heads, key_dim: as in `keras.layers.MultiHeadAttention`.
        num_buckets, bidirectional: of "bias", as in `fastkeras.tagging.relative_position_buckets`.
        max_distance: of "bias", as there; of the others, the farthest distance with a vector of its
            own. None: 128 for "bias" and 64 for the others.
        positions: "bias", "sinusoids" or "vectors".
        **kwargs: of `keras.layers.MultiHeadAttention`.

    Call arguments:
        query: (batch, steps, channels); value, key and masks as in Keras' layer. The vectors of
            the distances take steps · steps · key_dim numbers of memory.
        attention_mask: bool, true where a query may look at a key, of shape (steps, keys), (batch,
            steps, keys) or (batch, heads, steps, keys).

    Returns:
        Shape (batch, steps, channels).

    Raises:
        ValueError: an argument out of range, a query with more axes, or a mask of another shape.

    Example:
        >>> import numpy as np
        >>> from fastkeras.layers import RelativeMultiHeadAttention
        >>> x = np.ones((2, 7, 16), "float32")
        >>> for positions in ("bias", "sinusoids", "vectors"):
        ...     attention = RelativeMultiHeadAttention(2, 8, positions=positions)
        ...     print(tuple(attention(x, x).shape), attention.count_params())
        (2, 7, 16) 1152
        (2, 7, 16) 1088
        (2, 7, 16) 3152

    Source: "bias": Raffel et al., 2020, "Exploring the limits of transfer learning with a unified
        text-to-text transformer", section 2.1; "sinusoids": Wei et al., 2019, "NEZHA: neural
        contextualized representation for Chinese language understanding", arXiv 1909.00204, section
        2.2, with angles that begin at −max_distance, as the published code and weights have them;
        "vectors": Shaw, Uszkoreit & Vaswani, 2018, "Self-attention with relative position
        representations", arXiv 1803.02155.
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        num_buckets: int = 32,
        max_distance: int | None = None,
        bidirectional: bool = True,
        positions: str = "bias",
        **kwargs: Any,
    ) -> None:
        integer("num_heads", num_heads, 1)
        integer("key_dim", key_dim, 1)
        super().__init__(num_heads, key_dim, **kwargs)
        if not isinstance(positions, str) or positions not in FARTHEST:
            raise ValueError(f"positions={positions!r} must be one of {', '.join(FARTHEST)}")
        if max_distance is None:
            max_distance = FARTHEST[positions]
        if positions != "bias":
            integer("max_distance", max_distance, 1)
        ranges(num_buckets, max_distance if positions == "bias" else 2**30, bidirectional)
        self.num_buckets, self.max_distance = int(num_buckets), int(max_distance)
        self.bidirectional, self.positions = bool(bidirectional), positions

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        """Create the weights."""
        if len(query_shape) != 3:
            raise ValueError(f"query must have shape (batch, steps, channels), got {query_shape}")
        super().build(query_shape, value_shape, key_shape)
        if self.positions == "bias":
            settings = (self.num_heads, self.num_buckets, self.max_distance, self.bidirectional)
            self.relative_positions = RelativePositionBias(*settings, dtype=self.dtype_policy)
            self.relative_positions.build(query_shape)
        elif self.positions == "vectors":
            of_keys, of_values = (
                self.add_weight(
                    name=f"{name}_positions",
                    shape=(2 * self.max_distance + 1, size),
                    initializer="glorot_uniform",
                )
                for name, size in (("key", self.key_dim), ("value", self.value_dim))
            )
            self.key_positions, self.value_positions = of_keys, of_values

    def call(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor = None,
        query_mask: Tensor = None,
        value_mask: Tensor = None,
        key_mask: Tensor = None,
        attention_mask: Tensor = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Any:
        """See the docstring of the class."""
        if key is None:
            key, key_mask = value, value_mask if key_mask is None else key_mask
        masked = without_masked(query, query_mask)
        if query_mask is not None:
            set_keras_mask(masked, query_mask)  # Keras' layer looks for it there
        return super().call(
            masked,
            without_masked(value, value_mask),
            without_masked(key, key_mask),
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
        )

    def _compute_attention_mask(self, query, value, attention_mask=None, **others):
        """Keras' hook for all masks in one, which takes none of (batch, heads, steps, keys)."""
        mask = super()._compute_attention_mask(query, value, **others)
        if attention_mask is None:
            return mask
        attention_mask = ops.cast(attention_mask, "bool")
        axes = len(attention_mask.shape)
        if axes not in (2, 3, 4):
            raise ValueError(
                "attention_mask must have shape (steps, keys), (batch, steps, keys) or (batch, "
                f"heads, steps, keys), got {tuple(attention_mask.shape)}"
            )
        if mask is None:
            return attention_mask
        return attention_mask & (mask[:, None] if axes == 4 else mask)

    def _compute_attention(
        self,
        query,
        key,
        value,
        attention_mask=None,
        training=None,
        return_attention_scores=False,
        use_causal_mask=False,
    ):
        """Keras' hook for attention of another kind: of projected (batch, steps, heads, size)."""
        query = query * query.shape[-1] ** -0.5
        scores = ops.einsum("btnh,bsnh->bnts", query, key)
        steps, keys = ops.shape(scores)[-2:]
        if self.positions == "bias":
            scores = scores + self.relative_positions(query, key)
        else:
            of_keys, of_values = self._vectors(steps, keys, query.dtype)
            scores = scores + ops.einsum("btnh,tsh->bnts", query, of_keys)
        if attention_mask is not None and len(attention_mask.shape) == 3:
            attention_mask = attention_mask[:, None]
        if use_causal_mask:
            before = ops.arange(steps)[:, None] >= ops.arange(keys)[None]
            attention_mask = before if attention_mask is None else attention_mask & before
        weights = normalized(scores, attention_mask)
        dropped = weights
        if self._dropout > 0:
            dropped = self._dropout_layer(weights, training=training)
        mixed = ops.einsum("bnts,bsnh->btnh", dropped, value)
        if self.positions != "bias":
            mixed = mixed + ops.einsum("bnts,tsh->btnh", dropped, of_values)
        return mixed, weights

    def _vectors(self, steps, keys, dtype):
        """a[d] of each query and key, (steps, keys, size), for keys and for values."""
        distances = ops.arange(keys, dtype="int32") - ops.arange(steps, dtype="int32")[:, None]
        farthest = self.max_distance
        places = ops.clip(distances, -farthest, farthest) + farthest
        if self.positions == "vectors":
            tables = self.key_positions, self.value_positions
        else:
            rows = 2 * farthest + 1
            tables = sinusoids(rows, self.key_dim), sinusoids(rows, self.value_dim)
        return [ops.take(ops.cast(table, dtype), places, axis=0) for table in tables]

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        own = ("num_buckets", "max_distance", "bidirectional", "positions")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def sinusoids(rows, size):
    """In turn the sine and cosine of row / 10000^(2i / size), float64, shape (rows, size)."""
    angles = np.arange(rows)[:, None] / 10000.0 ** (2 * np.arange(size // 2) / size)
    table = np.zeros((rows, size))
    table[:, 0 : size - 1 : 2], table[:, 1::2] = np.sin(angles), np.cos(angles)
    return table
