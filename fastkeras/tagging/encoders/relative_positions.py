"""Scores of attention that depend on how far apart two steps are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from fastkeras.training.arguments import flag, integer

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import ArrayLike, Tensor


def relative_position_buckets(
    distances: ArrayLike,
    num_buckets: int = 32,
    max_distance: int = 128,
    bidirectional: bool = True,
) -> Tensor:
    """The buckets of T5 for distances: one for each near one, and fewer the farther they are.

    Half of the buckets of a direction are for the distances 0, 1, 2 … each; the others are for
    ranges whose ends grow by the same factor, up to `max_distance`, and the last one for all that
    is beyond it.

    Args:
        distances: integers of any shape, position of the key − position of the query.
        num_buckets: how many; an even number of at least 4 if bidirectional, else at least 2.
        max_distance: where the last bucket begins, about; above the number of near distances.
        bidirectional: whether keys after the query have the second half of the buckets; otherwise
            they share bucket 0 with the query's own step.

    Returns:
        int32 from 0 to num_buckets − 1, of the shape of the distances. The ends of the ranges are
        computed exactly, not by logarithms in float32.

    Raises:
        ValueError: too few buckets, or a `max_distance` that is among the near distances.

    Example:
        >>> import numpy as np
        >>> from fastkeras.tagging import relative_position_buckets
        >>> relative_position_buckets(np.array([0, -1, -7, -8, -11, -12, -500, 1, 500])).numpy()
        array([ 0,  1,  7,  8,  8,  9, 15, 17, 31], dtype=int32)

    Source: Raffel et al., 2020, "Exploring the limits of transfer learning with a unified
        text-to-text transformer", section 2.1.
    """
    starts, exact, half = ranges(num_buckets, max_distance, bidirectional)
    distances = ops.cast(distances, "int32")
    far = ops.abs(distances) if bidirectional else ops.maximum(-distances, 0)
    buckets = ops.minimum(far, exact)
    for start in starts:
        buckets = buckets + ops.cast(far >= start, "int32")
    return ops.where(distances > 0, buckets + half, buckets) if bidirectional else buckets


@keras.saving.register_keras_serializable("fastkeras")
class RelativePositionBias(keras.layers.Layer):
    """A trained number for each head and each bucket of distances, to be added to the scores.

    `RelativeMultiHeadAttention` and `GatedAttentionUnit` have one; use it directly for attention of
    your own. Models such as T5 share one among all their blocks.

    Args:
        num_heads: the number of heads.
        num_buckets, max_distance, bidirectional: as in
            `fastkeras.tagging.relative_position_buckets`.
        embeddings_initializer: of the numbers.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        queries: any tensor of shape (batch, steps, …); only the number of its steps counts.
        keys: the same for the keys; None for those of the queries.

    Returns:
        Shape (num_heads, steps of the queries, steps of the keys), in the compute dtype.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> import numpy as np
        >>> from fastkeras.layers import RelativePositionBias
        >>> RelativePositionBias(num_heads=4)(np.ones((2, 7, 16))).shape == (4, 7, 7)
        True

    Source: Raffel et al., 2020, section 2.1.
    """

    def __init__(
        self,
        num_heads: int,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        embeddings_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = integer("num_heads", num_heads, 1)
        ranges(num_buckets, max_distance, bidirectional)
        self.num_buckets, self.max_distance = int(num_buckets), int(max_distance)
        self.bidirectional = bool(bidirectional)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, queries_shape: Any, keys_shape: Any = None) -> None:
        """Create the numbers."""
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.num_buckets, self.num_heads),
            initializer=self.embeddings_initializer,
        )
        self.built = True

    def call(self, queries: Tensor, keys: Tensor = None) -> Tensor:
        """See the docstring of the class."""
        of_queries, of_keys = (ops.shape(queries if x is None else x)[1] for x in (queries, keys))
        count = of_queries + of_keys - 1
        count = max(count, 1) if isinstance(count, int) else ops.maximum(count, 1)  # if no steps
        distances = ops.arange(count, dtype="int32") - (of_queries - 1)
        buckets = relative_position_buckets(
            distances, self.num_buckets, self.max_distance, self.bidirectional
        )
        of_distances = ops.take(ops.convert_to_tensor(self.embeddings), buckets, axis=0)
        order = ops.arange(of_keys, dtype="int32") + (of_queries - 1)
        order = order[None, :] - ops.arange(of_queries, dtype="int32")[:, None]
        return ops.transpose(ops.take(of_distances, order, axis=0), (2, 0, 1))

    def compute_output_shape(
        self, queries_shape: Any, keys_shape: Any = None
    ) -> tuple[int | None, ...]:
        """(num_heads, steps of the queries, steps of the keys)."""
        return (self.num_heads, queries_shape[1], (keys_shape or queries_shape)[1])

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        own = ("num_heads", "num_buckets", "max_distance", "bidirectional")
        initializer = keras.initializers.serialize(self.embeddings_initializer)
        config = {name: getattr(self, name) for name in own}
        return {**super().get_config(), **config, "embeddings_initializer": initializer}


def ranges(num_buckets, max_distance, bidirectional):
    """Check the arguments of the buckets of T5.

    Returns:
        The distances where a further bucket begins, the number of distances that have a bucket of
        their own, and the number of buckets of one direction.
    """
    flag("bidirectional", bidirectional)
    integer("num_buckets", num_buckets, 4 if bidirectional else 2)
    if bidirectional and num_buckets % 2:
        raise ValueError(f"num_buckets={num_buckets} must be even, half for each direction")
    half = num_buckets // 2 if bidirectional else num_buckets
    exact = half // 2
    integer("max_distance", max_distance, exact + 1)
    shares = np.arange(1, half - exact) / (half - exact)
    starts = exact * (max_distance / exact) ** shares
    return [math.ceil(round(start, 9)) for start in starts], exact, half
