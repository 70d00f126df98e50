"""A recurrent decoder with attention: all steps at once in training, one at a time in a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.seq2seq.arguments import integer
from fastkeras.seq2seq.layers.copy_prior import copy_prior_of, name_of, tokens_in
from fastkeras.training.masking import normalized, without_masked

if TYPE_CHECKING:
    from typing import Any, Self

    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
class AttentionDecoder(keras.layers.Layer):
    """Scores of the next token after each token of a target, with attention to a source.

    A recurrent cell reads the target. With h its output at a step, e_s the encoding of step s of
    the source, and learned W, V, U,
        a = Σ_s softmax_s(h·W e_s) e_s,    logits = U tanh(V [h; a])
    Masked steps of the source do not contribute, so padding changes nothing.

    Args:
        vocabulary_size: the number of tokens; 0 is padding.
        cell: a recurrent cell of Keras, `LSTMCell(128)` for instance, or a `StackedRNNCells`.
        units: the size of the layer below the logits.
        embedding: a layer that embeds tokens, for instance one shared with the encoder; None makes
            one with `units` dimensions.
        copy_prior: "averaged" or "gated": the logits go through a `CopyPrior`; None: they do not.
        **options: those of `keras.layers.Layer`.

    Call:
        tokens: integers, (batch, steps): the start token and the target; the next token is
            predicted at each step.
        encoded: floats, (batch, source steps, size); its mask is Keras' own, or `encoded_mask`.
        source: integers, (batch, source steps), the tokens of the source; for `copy_prior`.

    Returns:
        logits, (batch, steps, vocabulary_size).

    Raises:
        ValueError: `source` is missing, or given without `copy_prior`; another `copy_prior`.

    Example:
        >>> import keras, numpy as np
        >>> from fastkeras.layers import AttentionDecoder
        >>> from fastkeras.seq2seq import BeamSearch
        >>> decoder = AttentionDecoder(9, keras.layers.GRUCell(8), units=8)
        >>> tokens, encoded = np.array([[2, 5, 7]]), np.ones((1, 4, 6), "float32")
        >>> decoder(tokens, encoded).shape == (1, 3, 9)
        True
        >>> search = BeamSearch(end=3, num_beams=2, max_length=5, suppressed=(0, 1, 2))
        >>> found = search(decoder.step, *decoder.begin(encoded), start=2)
        >>> found.tokens.shape[:2]
        (1, 1)

    Source: Luong, Pham & Manning, 2015, "Effective approaches to attention-based neural machine
    translation", sections 3 and 3.1 (general); Su Jianlin, 2018, https://kexue.fm/archives/5861.
    """

    def __init__(
        self,
        vocabulary_size: int,
        cell: keras.Layer,
        units: int,
        embedding: keras.Layer | None = None,
        copy_prior: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.supports_masking = True
        self.vocabulary_size = integer("vocabulary_size", vocabulary_size, 1)
        self.units = integer("units", units, 1)
        self.cell = cell
        own = {"dtype": self.dtype_policy}  # inner layers would take the global one
        self.rnn = keras.layers.RNN(cell, return_sequences=True, **own)
        self.has_own_embedding = embedding is None
        if embedding is None:
            embedding = keras.layers.Embedding(vocabulary_size, units, name="embedding", **own)
        self.embedding = embedding
        self.keys: Any = None
        self.combined = keras.layers.Dense(units, activation="tanh", name="combined", **own)
        self.logits = keras.layers.Dense(vocabulary_size, name="logits", **own)
        self.copy_prior = copy_prior_of(copy_prior, self.dtype_policy)

    def build(self, tokens_shape: Any, encoded_shape: Any, source_shape: Any = None) -> None:
        size, hidden = encoded_shape[-1], self._hidden_size()
        self.keys = keras.layers.Dense(hidden, use_bias=False, name="keys", dtype=self.dtype_policy)
        self.keys.build((None, None, size))
        if not self.embedding.built:
            self.embedding.build(tokens_shape)
        embedded = self.embedding.compute_output_shape(tuple(tokens_shape))
        self.rnn.build(embedded)
        self.combined.build((None, None, hidden + size))
        self.logits.build((None, None, self.units))
        if self.copy_prior is not None:
            hidden_shape = (None, None, self.units) if self.copy_prior.gated else None
            self.copy_prior.build((None, None, self.vocabulary_size), None, hidden_shape)
        self.built = True

    def call(
        self, tokens: Tensor, encoded: Tensor, source: Tensor = None, encoded_mask: Tensor = None
    ) -> Tensor:
        states, context = self.begin(encoded, source, encoded_mask)
        hidden = self.rnn(self._embedded(tokens, ops.shape(tokens)), initial_state=states)
        return self._scores(hidden, context)

    def begin(
        self, encoded: Tensor, source: Tensor = None, encoded_mask: Tensor = None
    ) -> tuple[Any, Any]:
        """The states and the context for the first call of `step` in a search.

        Args:
            encoded, source, encoded_mask: as in a call.

        Returns:
            A list of the states of the cell, and a dict, the context.

        Raises:
            ValueError: `source` is missing with a `copy_prior`, or is given without.
        """
        if (source is None) != (self.copy_prior is None):
            raise ValueError(
                "source must be given for a decoder with a copy_prior and for no other, got "
                f"{'None' if source is None else 'one'}"
            )
        encoded = ops.convert_to_tensor(encoded)
        if encoded_mask is None:
            encoded_mask = getattr(encoded, "_keras_mask", None)
        if not self.built:  # if a search comes before any call
            self.build((None, None), encoded.shape)
        batch, steps = ops.shape(encoded)[0], ops.shape(encoded)[1]
        encoded = without_masked(encoded, encoded_mask)
        if encoded_mask is None:
            encoded_mask = ops.ones((batch, steps), "bool")
        context = {
            "encoded": encoded,
            "keys": self.keys(encoded),  # computed once for each sentence
            "mask": ops.cast(ops.convert_to_tensor(encoded_mask), "bool"),
        }
        if source is not None:
            context["in_source"] = tokens_in(source, self.vocabulary_size, encoded.dtype)
        states = self.rnn.get_initial_state(batch)
        return list(states) if isinstance(states, (list, tuple)) else [states], context

    def step(
        self, tokens: Tensor, states: Any, context: Any, ancestry: Tensor = None
    ) -> tuple[Tensor, Any, Any]:
        """One step of a `BeamSearch`, with the same weights as `call`.

        Args:
            tokens: integers, (batch, beams).
            states, context, ancestry: as `BeamSearch` passes them.

        Returns:
            Logits, (batch, beams, vocabulary_size), the new states, and the context.
        """
        batch, beams = ops.shape(tokens)
        flat = keras.tree.map_structure(
            lambda state: ops.reshape(state, (batch * beams, *state.shape[2:])), states
        )
        embedded = self._embedded(tokens, (batch * beams,))
        hidden, states = self.cell(embedded, flat, training=False)
        states = keras.tree.map_structure(
            lambda state: ops.reshape(state, (batch, beams, *state.shape[1:])), states
        )
        hidden = ops.reshape(hidden, (batch, beams, hidden.shape[-1]))
        return self._scores(hidden, context), list(states), context

    def _embedded(self, tokens, axes):
        """The embeddings, (*axes, size); no mask, since padding comes last and nothing reads it."""
        embedded = self.embedding(tokens)
        return ops.reshape(embedded, (*axes, embedded.shape[-1]))

    def attention(
        self, tokens: Tensor, encoded: Tensor, source: Tensor = None, encoded_mask: Tensor = None
    ) -> Tensor:
        """How much of each step of the source is read after each token of a target.

        Args:
            tokens, encoded, source, encoded_mask: as in a call.

        Returns:
            weights, (batch, steps, source steps), at least 0; their sums over the source are 1.
        """
        states, context = self.begin(encoded, source, encoded_mask)
        hidden = self.rnn(self._embedded(tokens, ops.shape(tokens)), initial_state=states)
        return _attention(hidden, context)

    def _scores(self, hidden, context):
        """The logits for hidden states (batch, queries, size); queries are steps or beams."""
        read = ops.matmul(_attention(hidden, context), context["encoded"])
        combined = self.combined(ops.concatenate([hidden, read], axis=-1))
        logits, prior = self.logits(combined), self.copy_prior
        if prior is None:
            return logits
        return prior(logits, context["in_source"], combined if prior.gated else None)

    def _hidden_size(self):
        size = self.cell.output_size
        return size[-1] if isinstance(size, (list, tuple)) else size

    def compute_output_shape(
        self, tokens_shape: Any, encoded_shape: Any, source_shape: Any = None
    ) -> tuple[int | None, ...]:
        return (*tokens_shape, self.vocabulary_size)

    def compute_mask(self, *_: Any, **__: Any) -> Any:
        """No mask, since the loss leaves padding out."""
        return None

    def get_config(self) -> dict[str, Any]:
        save = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "cell": save(self.cell),
            "units": self.units,
            "embedding": None if self.has_own_embedding else save(self.embedding),
            "copy_prior": name_of(self.copy_prior),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        for name in ("cell", "embedding"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


def _attention(hidden, context):
    """The weights of the source's steps, (batch, queries, source steps), for hidden states."""
    scores = ops.matmul(hidden, ops.transpose(context["keys"], (0, 2, 1)))
    return normalized(scores, context["mask"][:, None])
