"""Triplet loss as a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.training.arguments import number, one_of
from fastkeras.training.losses.loss_layers import LossLayer

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
class TripletLossLayer(LossLayer):
    """max(0, margin + d(anchor, positive) − d(anchor, negative)); returns the anchor.

    Called with [anchor, positive, negative], each of shape (batch, features).

    Args:
        margin: by how much the negative has to be farther than the positive.
        distance: "cosine" (1 − cosine), "dot" (−inner product, as in the article) or
            "squared_euclidean". Embeddings of length zero have the cosine 0, not NaN.
        weight: factor of the loss, as in `LossLayer`.
        **options: of `LossLayer`.

    Raises:
        ValueError: `distance` is none of these, or `margin` is negative.

    Example:
        >>> import keras
        >>> encoder = keras.Sequential([keras.layers.Dense(8)])
        >>> texts = [keras.Input((16,)) for _ in range(3)]
        >>> model = keras.Model(texts, TripletLossLayer(0.1)([encoder(x) for x in texts]))
        >>> model.compile("adam")

    Source: Schroff, Kalenichenko & Philbin, 2015, "FaceNet"; Su Jianlin, 2017,
    https://kexue.fm/archives/4493.
    """

    def __init__(
        self, margin: float = 0.1, distance: str = "cosine", weight: float = 1.0, **options: Any
    ) -> None:
        super().__init__(weight=weight, **options)
        self.margin = number("margin", margin, "at least 0", lambda margin: margin >= 0)
        self.distance = one_of("distance", distance, _DISTANCES)

    def compute_loss(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Losses of shape (batch,)."""
        distance = _DISTANCES[self.distance]
        return ops.relu(self.margin + distance(anchor, positive) - distance(anchor, negative))

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {**super().get_config(), "margin": self.margin, "distance": self.distance}


def _dot(a, b):
    return -ops.sum(a * b, -1)


def _cosine(a, b):
    return 1 + _dot(_unit(a), _unit(b))


def _unit(x):
    square = ops.sum(x * x, -1, keepdims=True)
    return x * ops.rsqrt(ops.maximum(square, 1e-12))


def _squared_euclidean(a, b):
    return ops.sum(ops.square(a - b), -1)


_DISTANCES = {"cosine": _cosine, "dot": _dot, "squared_euclidean": _squared_euclidean}
