"""The maximum-entropy Markov model as a Keras layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

from fastkeras.crf import memm
from fastkeras.crf.layers.crf import CRF
from fastkeras.training.arguments import flag

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import ArrayLike, Tensor


@keras.saving.register_keras_serializable(package="fastkeras")
class MEMM(CRF):
    """Maximum-entropy Markov model over the scores of a sequence tagger, in place of a CRF.

    It has the same usage, weights, loss and decoding, but each step is normalised by itself.
    Training therefore needs no recursion, so it is fast on any device without a kernel of its own,
    and with `transition_rank` very many tags are possible. On a CPU the native CRF is still faster.
    `fastkeras.crf.memm` describes the model.

    Args:
        num_tags, use_boundaries, use_kernel, initializers, regularizers, constraints of weights,
            learning_rate_multiplier, constraints, transition_rank, engine: as in `CRF`; give them
            by name, or after `bidirectional`. `checkpoint` has no effect.
        bidirectional: whether the loss is the mean of both directions, or from left to right only.
        **kwargs: the other arguments of `CRF`.

    Raises:
        ValueError: as `CRF`, and for a label smoothing or tag weights in its loss.

    Call arguments and returns: as for `CRF`. "confidence" is the probability of a tag under the
    geometric mean of the two directions.

    Example:
        >>> import keras
        >>> from fastkeras.layers import MEMM
        >>> inputs = keras.Input((None,), dtype="int32")
        >>> x = keras.layers.Embedding(100, 8, mask_zero=True)(inputs)
        >>> memm = MEMM(num_tags=5, use_kernel=True, transition_rank=2)
        >>> model = keras.Model(inputs, memm(x))
        >>> model.compile("adam", loss=memm.loss, metrics=[memm.accuracy])
        >>> memm.decode(model).output.dtype
        'int32'

    Source: McCallum, Freitag & Pereira, 2000, "Maximum entropy Markov models for information
        extraction and segmentation"; Su, 2020, https://kexue.fm/archives/7213.
    """

    objectives = ()

    def __init__(
        self, num_tags: int | None = None, bidirectional: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(num_tags, **kwargs)
        self.bidirectional = flag("bidirectional", bidirectional)

    may_vary = False

    def log_likelihood(
        self,
        emissions: ArrayLike,
        tags: ArrayLike,
        mask: ArrayLike | None = None,
        label_smoothing: float = 0.0,
        tag_weights: ArrayLike | None = None,
    ) -> Tensor:
        """`fastkeras.crf.memm.log_likelihood` with this layer's weights.

        Args:
            emissions, tags, mask: as in `CRF.log_likelihood`.
            label_smoothing, tag_weights: must be 0 and None; a MEMM supports neither.

        Returns:
            Shape (batch,), at least float32.

        Raises:
            ValueError: label smoothing or weights of tags are given.
        """
        if label_smoothing or tag_weights is not None:
            raise ValueError(
                "label_smoothing and tag_weights are of the CRF layer; MEMM has neither, got "
                f"label_smoothing={label_smoothing!r}, tag_weights={tag_weights!r}"
            )
        chain = super()._chain(emissions, mask, keep_factors=True)
        return memm.log_likelihood_of(chain, tags, self.bidirectional)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {**super().get_config(), "bidirectional": self.bidirectional}

    def _chain(self, emissions, mask):
        """A CRF chain whose score is the log-likelihood here, so that decoding is that of a CRF."""
        return memm.normalized(super()._chain(emissions, mask), self.bidirectional)
