"""The second-order CRF as a Keras layer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from fastkeras._engines import engine_of_family
from fastkeras.crf.arguments import tags_of
from fastkeras.crf.layers.crf import CRF
from fastkeras.crf.layers.decoder import decoded_by
from fastkeras.crf.layers.scores import add_score

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import ArrayLike, Identifier, Tensor


@keras.saving.register_keras_serializable(package="fastkeras")
class SecondOrderCRF(CRF):
    """A CRF in which the score of a tag depends on the two tags before it.

    It has the usage, loss and decoding of `CRF`, and one weight more for each three tags in a row,
    which begins at 0: as a linear chain. With `constraints`, a step costs as much as there are
    triples that they allow.

    Args:
        num_tags, use_boundaries, use_kernel, initializers, regularizers, constraints of weights,
            learning_rate_multiplier, constraints, transition_rank: as in `CRF`; give them by name,
            or after the arguments for triples. `checkpoint` has no effect.
        triples_initializer, triples_regularizer, triples_constraint: of the weights of the triples.
        **kwargs: the other arguments of `CRF`; `engine` is one of
            `fastkeras.engines("crf.second_order")`.

    Raises:
        ValueError: as `CRF`, and for a label smoothing or tag weights in its loss.

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

    objectives = ()
    may_vary = False

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
            emissions, tags, mask: as in `CRF.log_likelihood`.
            label_smoothing, tag_weights: must be 0 and None; it supports neither.

        Returns:
            Shape (batch,), at least float32.

        Raises:
            ValueError: label smoothing or weights of tags are given.
        """
        if label_smoothing or tag_weights is not None:
            raise ValueError(
                "label_smoothing and tag_weights are of the CRF layer; SecondOrderCRF has neither, "
                f"got label_smoothing={label_smoothing!r}, tag_weights={tag_weights!r}"
            )
        chain = self._chain(emissions, mask)
        functions, *more = self._functions(chain)
        return functions.log_likelihood(chain, tags_of(chain, tags), *more)

    def viterbi(self, emissions: ArrayLike, mask: ArrayLike | None = None) -> tuple[Tensor, Tensor]:
        """`fastkeras.crf.second_order.viterbi` with this layer's weights: (tags, score).

        Args:
            emissions, mask: as in `log_likelihood`.

        Returns:
            int32 tags, shape (batch, steps), and scores, shape (batch,), at least float32.
        """
        chain = self._chain(emissions, mask)
        functions, *more = self._functions(chain)
        return functions.viterbi(chain, *more)

    def marginals(
        self, emissions: ArrayLike, mask: ArrayLike | None = None
    ) -> tuple[Tensor, Tensor]:
        """`fastkeras.crf.second_order.marginals` with this layer's weights.

        Args:
            emissions, mask: as in `log_likelihood`.

        Returns:
            Probabilities, shape (batch, steps, num_tags), and expected numbers of transitions,
            shape (batch, num_tags, num_tags), at least float32.
        """
        chain = self._chain(emissions, mask)
        functions, *more = self._functions(chain)
        return functions.marginals(chain, *more)

    def arguments(self, emissions: ArrayLike, mask: ArrayLike | None = None) -> dict[str, Any]:
        """The chains of a batch, as keyword arguments for `fastkeras.crf.second_order`.

        Args:
            emissions, mask: as in `log_likelihood`.

        Returns:
            As `CRF.arguments`, with triples and constraints.
        """
        more = {"triples": self.triples, "constraints": self.constraints}
        return {**super().arguments(emissions, mask), **more}

    def decoded(self, emissions: ArrayLike, mask: ArrayLike, output: str = "tags") -> Tensor:
        """What `call` returns for other outputs than "emissions"; without gradients."""
        chain = self._chain(emissions, mask).with_scores(ops.stop_gradient)
        functions, triples, allowed = self._functions(chain)
        more = ops.stop_gradient(triples), allowed
        of_chain = SimpleNamespace(
            viterbi=lambda chain: functions.viterbi(chain, *more),
            marginals=lambda chain: functions.marginals(chain, *more),
        )
        return decoded_by(of_chain, chain, output)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        config = super().get_config()
        for kind in ("initializer", "regularizer", "constraint"):
            serialize = getattr(keras, f"{kind}s").serialize
            config[f"triples_{kind}"] = serialize(getattr(self, f"triples_{kind}"))
        return config

    def _functions(self, chain):
        """The engine's functions, the triples, and which transitions are allowed."""
        allowed = np.ones((self.num_tags,) * 2, bool)
        if self.constraints is not None:
            allowed = self.constraints.transitions
        functions = engine_of_family("crf.second_order", chain.family, self.engine)
        return functions, ops.cast(self.triples, chain.emissions.dtype), allowed
