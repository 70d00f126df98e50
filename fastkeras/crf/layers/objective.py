"""Other losses of the CRF layer than the likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from fastkeras.crf.layers.loss import CRFLoss
from fastkeras.crf.layers.span_counts import check_names, span_tables, spans_of_sequences
from fastkeras.training.arguments import integer, not_negative, one_of

if TYPE_CHECKING:
    from fastkeras.crf.layers.crf import CRF
    from fastkeras.typing import ArrayLike

MODES = ("marginal", "softmax_margin", "max_margin", "perceptron", "risk")


@keras.saving.register_keras_serializable(package="fastkeras")
class CRFObjective(CRFLoss):
    """A loss of the `CRF` layer that looks at single tags, or at how wrong other sequences are.

    - "marginal": the tags' own probabilities, for decoding by `posterior_decode`. Its derivative is
      computed by the `keras` engine.
    - "softmax_margin", "max_margin": the right sequence should score more than another by what that
      one costs; all of them, or the one that violates it most.
    - "perceptron": the score by which the best sequence exceeds the right one.
    - "risk": the expected cost of the best sequences; 1 − F1 of their spans, if `names` are given.
      For a model that was trained by another loss before.

    Labels, masks and weights of sequences are those of `CRFLoss`.

    Args:
        layer: as in `CRFLoss`.
        mode: one of these.
        costs: for the margins: what a step with a wrong tag costs, a number or (num_tags, num_tags)
            as in `fastkeras.crf.softmax_margin_loss`.
        num_paths: for "risk": how many of the best sequences, at least 2.
        names, scheme: for "risk": the names of the tags, and how they make spans, as in
            `CRFSpanScore`. None: the cost is the share of steps with a wrong tag.
        ignore_class, reduction, name: as in `CRFLoss`.

    Raises:
        ValueError: an argument out of range, weights of steps, or a layer without such losses; and
            as `CRFLoss`.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.layers import CRF
        >>> from fastkeras.losses import CRFObjective
        >>> crf = CRF()
        >>> model = keras.Sequential([keras.layers.Dense(3), crf])
        >>> model.compile("adam", CRFObjective(crf, "max_margin"), metrics=[crf.accuracy])
        >>> history = model.fit(np.ones((2, 5, 4)), np.ones((2, 5), int), verbose=0)

    Source: as the functions `marginal_log_likelihood`, `softmax_margin_loss`, `max_margin_loss` and
        `expected_cost` of `fastkeras.crf`.
    """

    def __init__(
        self,
        layer: CRF | None = None,
        mode: str = "max_margin",
        costs: float | ArrayLike = 1.0,
        num_paths: int = 8,
        names: Sequence[str] | None = None,
        scheme: str | None = None,
        ignore_class: int | None = None,
        reduction: str = "sum_over_batch_size",
        name: str = "crf_objective",
    ) -> None:
        super().__init__(layer, ignore_class=ignore_class, reduction=reduction, name=name)
        self.mode = one_of("mode", mode, MODES)
        self.costs = not_negative("costs", costs, (0, 2))
        self.num_paths = integer("num_paths", num_paths, 2)
        self.names = None if names is None else list(names)
        self.scheme = scheme
        self._tables = None if names is None else span_tables(self.names, scheme)
        self._check_names(layer)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        config = super().get_config()
        del config["label_smoothing"], config["tag_weights"]
        own = ("mode", "costs", "num_paths", "names", "scheme")
        return config | {name: getattr(self, name) for name in own}

    def _of_tags(self, layer, y_pred, tags, mask, weights):
        if self.mode not in getattr(layer, "objectives", ()):
            raise ValueError(f"{type(layer).__name__} cannot be trained by mode={self.mode!r}")
        self._check_names(layer)
        if weights is not None:
            raise ValueError(
                f"mode={self.mode!r} takes weights of sequences, of shape (batch,), not of steps"
            )
        cost = None if self._tables is None else self._cost_of_spans
        return layer.objective(self.mode, y_pred, tags, mask, self.costs, self.num_paths, cost)

    def _check_names(self, layer):
        if self.names is not None:
            check_names(self.names, layer)

    def _cost_of_spans(self, tags, paths, valid):
        """1 − F1 of the spans of each path, (batch, num_paths); 0 where there are no spans."""
        batch, number, steps = ops.shape(paths)
        tags, paths, valid = (
            ops.reshape(ops.broadcast_to(of_steps, (batch, number, steps)), (batch * number, steps))
            for of_steps in (tags, paths, valid)
        )
        counts = spans_of_sequences(self._tables, tags, paths, valid)
        right, found, true = ops.unstack(ops.sum(counts, axis=1), 3, axis=1)
        both = found + true
        cost = 1 - 2 * right / ops.where(both > 0, both, 1)
        return ops.reshape(ops.where(both > 0, cost, 0), (batch, number))
