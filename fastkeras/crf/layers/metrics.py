"""Keras metrics of the decoded tag sequences: by steps, by whole sequences, and by spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.crf.layers.counting_metric import CountingMetric
from fastkeras.crf.layers.span_counts import check_names, counted_spans, span_tables
from fastkeras.training.arguments import flag, one_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastkeras.crf.layers.crf import CRF as CRFLayer
    from fastkeras.typing import Tensor

MEASURES = ("f1", "precision", "recall")


@keras.saving.register_keras_serializable(package="fastkeras")
class CRFAccuracy(CountingMetric):
    """Share of the valid steps with the right tag, in the best sequence or the best of each step.

    `crf.accuracy` is one. Layer and mask come with y_pred, as for `CRFLoss`. With JAX it works in
    `fit` and `evaluate` of a model compiled with `crf.loss`.

    Args:
        layer: the `CRF` layer, or its name; needed only if y_pred is not the direct output of one.
        ignore_class: a label whose steps are left out, as in `CRFLoss`; None for no such label.
        posterior: False for the tags of the best sequence; True for the most probable tag of each
            step, as in `CRF.decode`.
        name: name of the metric.
        dtype: dtype of its state.

    Raises:
        ValueError: as `CRFLoss`; `posterior` is neither True nor False.

    Example:
        >>> import numpy as np
        >>> from fastkeras.layers import CRF
        >>> crf = CRF()
        >>> emissions = crf(np.array([[[0.0, 9.0], [9.0, 0.0]]]))
        >>> accuracy = crf.accuracy
        >>> accuracy.update_state(np.array([[1, 1]]), emissions)
        >>> float(accuracy.result())
        0.5

    Source: Forney, 1973, "The Viterbi algorithm".
    """

    weighs_steps = True

    def __init__(
        self,
        layer: CRFLayer | str | None = None,
        ignore_class: int | None = None,
        posterior: bool = False,
        name: str = "accuracy",
        dtype: str | None = None,
    ) -> None:
        super().__init__(layer, (2,), ignore_class, name, dtype)
        self.posterior = flag("posterior", posterior)
        self.decoded_as = "posterior_tags" if self.posterior else "tags"

    def counts(self, tags: Tensor, found: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
        """The number of right steps and of all steps."""
        weights = weights if len(weights.shape) == 2 else weights[:, None]
        weights = ops.cast(valid, self.dtype) * weights
        right = ops.cast(found == tags, self.dtype) * weights
        return ops.stack([ops.sum(right), ops.sum(weights)])

    def result(self) -> Tensor:
        """The accuracy so far; 0 before the first valid step."""
        return ops.divide_no_nan(*ops.unstack(ops.convert_to_tensor(self.total), 2))

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {**super().get_config(), "posterior": self.posterior}


@keras.saving.register_keras_serializable(package="fastkeras")
class CRFExactMatch(CountingMetric):
    """Share of the sequences whose best tag sequence is right at every valid step.

    A sequence without a valid step does not count. Otherwise like `CRFAccuracy`.

    Args:
        layer, ignore_class, name, dtype: as in `CRFAccuracy`.

    Raises:
        ValueError: as `CRFLoss`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.layers import CRF
        >>> from fastkeras.metrics import CRFExactMatch
        >>> crf = CRF()
        >>> emissions = crf(np.array([[[0.0, 9.0], [9.0, 0.0]], [[9.0, 0.0], [9.0, 0.0]]]))
        >>> exact_match = CRFExactMatch(crf)
        >>> exact_match.update_state(np.array([[1, 1], [0, 0]]), emissions)
        >>> float(exact_match.result())
        0.5

    Source: Forney, 1973, "The Viterbi algorithm", which finds the sequence that is the most
        probable as a whole.
    """

    def __init__(
        self,
        layer: CRFLayer | str | None = None,
        ignore_class: int | None = None,
        name: str = "exact_match",
        dtype: str | None = None,
    ) -> None:
        super().__init__(layer, (2,), ignore_class, name, dtype)

    def counts(self, tags: Tensor, found: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
        """The number of right sequences and of all sequences."""
        right = ops.all((found == tags) | ~valid, axis=1)
        weights = ops.cast(ops.any(valid, axis=1), self.dtype) * weights
        return ops.stack([ops.sum(ops.cast(right, self.dtype) * weights), ops.sum(weights)])

    def result(self) -> Tensor:
        """The share so far; 0 before the first sequence."""
        return ops.divide_no_nan(*ops.unstack(ops.convert_to_tensor(self.total), 2))


@keras.saving.register_keras_serializable(package="fastkeras")
class CRFSpanScore(CountingMetric):
    """F1, precision or recall of spans, such as named entities, in the best tag sequences.

    The same figures as from `fastkeras.crf.span_scores`, but counted in the graph of the model, in
    `fit` and `evaluate`, and without seqeval.

    Args:
        layer: as in `CRFAccuracy`.
        names: the names of the tags, as in `crf.constraints.allowed`.
        measure: "f1", "precision" or "recall".
        kind: the type of the spans that count, such as "PER"; None for all types together.
        scheme: a scheme of `constraints.allowed`, except IOB1: only spans that obey it count. None:
            spans are read as by conlleval, the script of CoNLL-2000, which also reads IOB1, and
            accepts spans that begin wrongly.
        ignore_class: as in `CRFAccuracy`.
        name: name of the metric; None for span_f1, span_f1_PER and so on.
        dtype: dtype of its state.

    Raises:
        ValueError: names, measure, kind or scheme do not fit; and as `CRFLoss`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.layers import CRF
        >>> from fastkeras.metrics import CRFSpanScore
        >>> crf = CRF()
        >>> names = ["O", "B-PER", "I-PER"]
        >>> f1 = CRFSpanScore(crf, names)
        >>> found = np.eye(3)[[[1, 2, 0, 0]]] * 9  # one span, and one is missed
        >>> f1.update_state(np.array([[1, 2, 0, 1]]), crf(found))
        >>> round(float(f1.result()), 6)
        0.666667

    Source: Tjong Kim Sang & Buchholz, 2000, "Introduction to the CoNLL-2000 shared task: chunking".
    """

    def __init__(
        self,
        layer: CRFLayer | str | None = None,
        names: Sequence[str] = (),
        measure: str = "f1",
        kind: str | None = None,
        scheme: str | None = None,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        one_of("measure", measure, MEASURES)
        self._tables = span_tables(names, scheme)
        if kind is not None and kind not in self._tables.kinds:
            raise ValueError(
                f"kind must be one of the types in names, {', '.join(self._tables.kinds)}, or "
                f"None, got {kind!r}"
            )
        name = name if name is not None else "_".join(["span", measure, *([kind] if kind else [])])
        super().__init__(layer, (len(self._tables.kinds), 3), ignore_class, name, dtype)
        self.names, self.measure, self.kind, self.scheme = list(names), measure, kind, scheme
        check_names(self.names, layer)

    def counts(self, tags: Tensor, found: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
        """For each type, the number of spans that are right, that were found, and in the labels."""
        return counted_spans(self._tables, tags, found, valid, weights)

    def result(self) -> Tensor:
        """The measure so far; 0 where it is undefined."""
        kinds = self._tables.kinds
        of_kinds = ops.convert_to_tensor(self.total)
        if self.kind is not None:
            of_kinds = of_kinds[kinds.index(self.kind)][None]
        right, found, true = ops.unstack(ops.sum(of_kinds, axis=0), 3)
        of = {"precision": found, "recall": true, "f1": (found + true) / 2}[self.measure]
        return ops.divide_no_nan(right, of)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        config = super().get_config()
        own = {"names": self.names, "measure": self.measure, "kind": self.kind}
        return config | own | {"scheme": self.scheme}

    def _check_layer(self, layer):
        check_names(self.names, layer)
