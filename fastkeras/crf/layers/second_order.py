"""The second-order CRF as a Keras layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from fastkeras._engines import engine_of_family
from fastkeras.crf.arguments import tags_of
from fastkeras.crf.layers.crf import CRF
from fastkeras.crf.layers.scores import add_score
from fastkeras.crf.second_order.functions import WithTriples
from fastkeras.crf.second_order.pairs import pairs_of
from fastkeras.crf.weighted import (
    smoothed_likelihood_of,
    weighted_likelihood_of,
    weights_of_steps,
)
from fastkeras.training.arguments import share

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import ArrayLike, Identifier, Tensor


@keras.saving.register_keras_serializable(package="fastkeras")
class SecondOrderCRF(CRF):
    """A CRF in which the score of a tag depends on the two tags before it.

    It has the usage, loss and decoding of `CRF`, and one weight more for each three tags in a row,
    which begins at 0: as a linear chain. With `constraints`, a step costs as much as there are
    triples that they allow. A loss with label smoothing, with weights of tags or steps, or by
    `CRFObjective` of the mode "risk" runs on the chain over pairs of tags instead
    (`fastkeras.crf.second_order.pair_chain`), where a step costs the square of the allowed pairs.

    Args:
        num_tags, use_boundaries, use_kernel, initializers, regularizers, constraints of weights,
            learning_rate_multiplier, constraints, transition_rank: as in `CRF`; give them by name,
            or after the arguments for triples. `checkpoint` has no effect.
        triples_initializer, triples_regularizer, triples_constraint: of the weights of the triples.
        **kwargs: the other arguments of `CRF`; `engine` is one of
            `fastkeras.engines("crf.second_order")`.

    Raises:
        ValueError: as `CRF`.

    Call arguments and returns: as for `CRF`, without `transitions`.

    Example:
        >>> import keras
        >>> from fastkeras.layers import SecondOrderCRF
        >>> inputs = keras.Input((None,), dtype="int32")
        >>> x = keras.layers.Embedding(100, 8, mask_zero=True)(inputs)
        >>> crf = SecondOrderCRF(num_tags=5, use_kernel=True)
        >>> model = keras.Model(inputs, crf(x))
        >>> model.compile("adam", loss=crf.loss, metrics=[crf.accuracy])
        >>> crf.decode(model).output.dtype
        'int32'

    Source: Cuong, Ye, Lee & Chieu, 2014, "Conditional random field with high-order dependencies for
        sequence labeling and segmentation".
    """

    may_vary = False
    engine_domain = "crf.second_order"

    def __init__(
        self,
        num_tags: int | None = None,
        triples_initializer: Identifier = "zeros",
        triples_regularizer: Identifier | None = None,
        triples_constraint: Identifier | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tags, **kwargs)
        self.triples_initializer = keras.initializers.get(triples_initializer)
        self.triples_regularizer = keras.regularizers.get(triples_regularizer)
        self.triples_constraint = keras.constraints.get(triples_constraint)

    def build(self, input_shape: Any) -> None:
        """Create the weights for inputs of shape (batch, steps, channels)."""
        super().build(input_shape)
        self._triples = add_score(self, "triples", (self.num_tags,) * 3)

    @property
    def triples(self) -> Tensor:
        """Scores of the triples, float tensor (num_tags, num_tags, num_tags)."""
        return ops.convert_to_tensor(self._triples) * self.learning_rate_multiplier

    def log_likelihood(
        self,
        emissions: ArrayLike,
        tags: ArrayLike,
        mask: ArrayLike | None = None,
        label_smoothing: float = 0.0,
        tag_weights: ArrayLike | None = None,
    ) -> Tensor:
        """`fastkeras.crf.second_order.log_likelihood` with this layer's weights.

        Args:
            emissions, tags, mask, label_smoothing, tag_weights: as in `CRF.log_likelihood`.

        Returns:
            Shape (batch,), at least float32.
        """
        if not label_smoothing and tag_weights is None:
            return super().log_likelihood(emissions, tags, mask)
        chain = self._chain(emissions, mask)
        tags = tags_of(chain, tags)
        of_pairs, pairs = pairs_of(chain, *self._functions(chain)[1:])
        states = pairs.states(tags)
        weights = None if tag_weights is None else weights_of_steps(tag_weights, chain, tags)
        if label_smoothing:
            label_smoothing = share("label_smoothing", label_smoothing)
            return smoothed_likelihood_of(of_pairs, states, label_smoothing, weights, self.engine)
        return weighted_likelihood_of(of_pairs, states, weights, self.engine)

    def viterbi(self, emissions: ArrayLike, mask: ArrayLike | None = None) -> tuple[Tensor, Tensor]:
        """`fastkeras.crf.second_order.viterbi` with this layer's weights: (tags, score).

        Args:
            emissions, mask: as in `log_likelihood`.

        Returns:
            int32 tags, shape (batch, steps), and scores, shape (batch,), at least float32.
        """
        chain = self._chain(emissions, mask)
        engine, *more = self._functions(chain)
        functions = engine_of_family("crf.second_order", chain.family, engine)
        return functions.viterbi(chain, *more)

    def arguments(self, emissions: ArrayLike, mask: ArrayLike | None = None) -> dict[str, Any]:
        """The chains of a batch, as keyword arguments for `fastkeras.crf.second_order`.

        Args:
            emissions, mask: as in `log_likelihood`.

        Returns:
            As `CRF.arguments`, with triples and constraints.
        """
        more = {"triples": self.triples, "constraints": self.constraints}
        return {**super().arguments(emissions, mask), **more}

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        config = super().get_config()
        for kind in ("initializer", "regularizer", "constraint"):
            serialize = getattr(keras, f"{kind}s").serialize
            config[f"triples_{kind}"] = serialize(getattr(self, f"triples_{kind}"))
        return config

    def _functions(self, chain, engine=None, checkpoint=False):
        allowed = np.ones((self.num_tags,) * 2, bool)
        if self.constraints is not None:
            allowed = self.constraints.transitions
        triples = ops.cast(self.triples, chain.emissions.dtype)
        return WithTriples(engine or self.engine, triples, allowed)
