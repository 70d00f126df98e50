"""F1, precision or recall of the segments that a semi-Markov CRF finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.crf.layers.counting_metric import CountingMetric
from fastkeras.crf.layers.metrics import MEASURES
from fastkeras.crf.layers.semi_markov.scores import Segments
from fastkeras.crf.layers.span_counts import at_the_last
from fastkeras.training.arguments import one_of, optional_integer

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.crf.layers.semi_markov.layer import SemiMarkovCRF
    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable(package="fastkeras")
class SegmentScore(CountingMetric):
    """F1, precision or recall of the segments of the best segmentations of a `SemiMarkovCRF`.

    A segment is right if first step, last step and tag are. With JAX it works in `fit` and
    `evaluate` of a model compiled with `crf.loss`.

    Args:
        layer: the `SemiMarkovCRF` layer, or its name; needed only if y_pred is not the direct
            output of one.
        measure: "f1", "precision" or "recall".
        outside: the tag of segments that do not count, such as what is between names; or None.
        name: name of the metric; None for segment_f1 and so on.
        dtype: dtype of its state.

    Raises:
        ValueError: measure or outside are out of range; and as `CRFLoss`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.layers import SemiMarkovCRF
        >>> from fastkeras.metrics import SegmentScore
        >>> crf = SemiMarkovCRF(1, max_length=3)
        >>> scores = crf(np.array([[[0.0, 9.0], [0.0, -9.0], [0.0, 9.0]]]))  # begin at 0 and 2
        >>> f1 = SegmentScore(crf)
        >>> f1.update_state(np.array([[0, 0, 0]]), scores)
        >>> float(f1.result())
        0.4000000059604645

    Source: Sarawagi & Cohen, 2004, section 5.
    """

    def __init__(
        self,
        layer: SemiMarkovCRF | str | None = None,
        measure: str = "f1",
        outside: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        one_of("measure", measure, MEASURES)
        outside = optional_integer("outside", outside, 0)
        super().__init__(layer, (3,), None, name or f"segment_{measure}", dtype)
        self.measure, self.outside = measure, outside

    def counts(self, tags: Tensor, found: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
        """The number of right segments, of those found, and of those in the labels."""
        t = ops.arange(ops.shape(valid)[1], dtype="int32")
        order = ops.argsort(ops.where(valid, t, t + ops.shape(valid)[1]), axis=1)
        valid = ops.take_along_axis(valid, order, axis=1)  # the valid steps to the front
        true, other = (
            Segments.of(ops.take_along_axis(labels, order, axis=1), valid)
            for labels in (tags, found)
        )
        alike = true.begins & other.begins & (true.tags == other.tags)
        right = true.ends & other.ends & at_the_last(true.begins | other.begins, alike)
        sums = (
            ops.sum(ops.cast(where & (segments.tags != self._outside), self.dtype), axis=1)
            for where, segments in ((right, true), (other.ends, other), (true.ends, true))
        )
        return ops.sum(ops.stack(list(sums)) * weights, axis=1)

    def _check_layer(self, layer):
        if self._outside >= layer.num_tags:
            raise ValueError(
                f"outside={self.outside} must be one of the tags 0..{layer.num_tags - 1} of the "
                f"layer {layer.name!r}, or None"
            )

    @property
    def _outside(self):
        return -1 if self.outside is None else self.outside

    def result(self) -> Tensor:
        """The measure so far; 0 where it is undefined."""
        right, found, true = ops.unstack(ops.convert_to_tensor(self.total), 3)
        of = {"precision": found, "recall": true, "f1": (found + true) / 2}[self.measure]
        return ops.divide_no_nan(right, of)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        config = super().get_config()
        del config["ignore_class"]
        return config | {"measure": self.measure, "outside": self.outside}
