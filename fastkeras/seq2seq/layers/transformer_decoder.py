"""A transformer that decodes: all steps at once in training, one at a time in a search."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from fastkeras.seq2seq.arguments import integer
from fastkeras.seq2seq.layers.copy_prior import copy_prior_of, name_of, tokens_in
from fastkeras.seq2seq.states import step_number
from fastkeras.training.arguments import share
from fastkeras.training.masking import normalized, without_masked

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
class TransformerDecoder(keras.layers.Layer):
    """Scores of the next token after each token of a target, by attention to target and source.

    Blocks of attention to the target so far, attention to the source, and two dense layers, each
    applied to the normalized sum of those before and added to it. Positions are sinusoids, so there
    is no longest target. Masked steps of the source do not contribute, so padding changes nothing.

    Args:
        vocabulary_size: the number of tokens; 0 is padding.
        units: the size of the blocks, a multiple of 2 · `num_heads`.
        num_heads: the heads of each attention.
        num_layers: the number of blocks.
        feed_forward: the size of the layer inside of a block; None for 4 · `units`.
        dropout: from 0 to below 1: the share of each block's results that is dropped in training.
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
        ValueError: a size out of its range; `source` is missing, or given without `copy_prior`;
            another `copy_prior`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.layers import TransformerDecoder
        >>> from fastkeras.seq2seq import BeamSearch
        >>> decoder = TransformerDecoder(9, units=8, num_heads=2, num_layers=2)
        >>> tokens, encoded = np.array([[2, 5, 7]]), np.ones((1, 4, 6), "float32")
        >>> decoder(tokens, encoded).shape == (1, 3, 9)
        True
        >>> search = BeamSearch(end=3, num_beams=2, max_length=5, suppressed=(0, 1, 2))
        >>> states, context = decoder.begin(encoded, num_beams=2, max_length=5)
        >>> search(decoder.step, states, context, start=2).tokens.shape[:2]
        (1, 1)

    Source: Vaswani et al., 2017, "Attention is all you need"; the order of normalization is that of
    Xiong et al., 2020, "On layer normalization in the transformer architecture".
    """

    def __init__(
        self,
        vocabulary_size: int,
        units: int,
        num_heads: int = 4,
        num_layers: int = 2,
        feed_forward: int | None = None,
        dropout: float = 0.0,
        copy_prior: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.supports_masking = True
        self.vocabulary_size = integer("vocabulary_size", vocabulary_size, 1)
        self.units = integer("units", units, 1)
        self.num_heads = integer("num_heads", num_heads, 1)
        if units % (2 * num_heads):
            raise ValueError(f"units={units} must be a multiple of 2 · num_heads={2 * num_heads}")
        self.num_layers = integer("num_layers", num_layers, 1)
        feed_forward = 4 * units if feed_forward is None else feed_forward
        self.feed_forward = integer("feed_forward", feed_forward, 1)
        self.dropout = share("dropout", dropout)
        self.embedding = keras.layers.Embedding(
            vocabulary_size, units, name="embedding", dtype=self.dtype_policy
        )
        self.blocks = [
            _Block(
                units, num_heads, feed_forward, dropout, name=f"block_{i}", dtype=self.dtype_policy
            )
            for i in range(num_layers)
        ]
        self.normalization = keras.layers.LayerNormalization(
            epsilon=1e-5, name="normalization", dtype=self.dtype_policy
        )
        self.logits = keras.layers.Dense(vocabulary_size, name="logits", dtype=self.dtype_policy)
        self.copy_prior = copy_prior_of(copy_prior, self.dtype_policy)

    def build(self, tokens_shape: Any, encoded_shape: Any, source_shape: Any = None) -> None:
        self.embedding.build((None, None))
        for block in self.blocks:
            block.build((None, None, self.units), encoded_shape)
        self.normalization.build((None, None, self.units))
        self.logits.build((None, None, self.units))
        if self.copy_prior is not None:
            hidden_shape = (None, None, self.units) if self.copy_prior.gated else None
            self.copy_prior.build((None, None, self.vocabulary_size), None, hidden_shape)
        self.built = True

    def call(
        self,
        tokens: Tensor,
        encoded: Tensor,
        source: Tensor = None,
        encoded_mask: Tensor = None,
        training: bool = False,
    ) -> Tensor:
        context = self._of_source(encoded, source, encoded_mask)
        steps = ops.shape(tokens)[1]
        places = ops.arange(steps, dtype="int32")
        hidden = self._embedded(tokens, places)
        is_before = (places <= places[:, None])[None, None]  # not after, strictly speaking
        for block, of_source in zip(self.blocks, context["blocks"], strict=True):
            keys, values = block.of_target(hidden)
            hidden, _ = block(
                hidden, keys, values, is_before, of_source, context["mask"], training=training
            )
        return self._scores(hidden, context)

    def begin(
        self,
        encoded: Tensor,
        source: Tensor = None,
        encoded_mask: Tensor = None,
        num_beams: int = 1,
        max_length: int = 64,
    ) -> tuple[Any, Any]:
        """The states and the context for the first call of `step` in a search.

        Args:
            encoded, source, encoded_mask: as in a call.
            num_beams, max_length: those of the search; there is room for so many keys and values.
        """
        encoded = ops.convert_to_tensor(encoded)
        if not self.built:  # if a search comes before any call
            self.build((None, None), encoded.shape)
        context = self._of_source(encoded, source, encoded_mask)
        size = self.units // self.num_heads
        # steps and beams are one axis, so that nothing is between writing and reading the cache:
        # XLA would copy it there
        shape = (ops.shape(encoded)[0], self.num_heads, (max_length + 1) * num_beams, size)
        context["cache"] = [
            [ops.zeros(shape, self.compute_dtype) for _ in range(2)] for _ in self.blocks
        ]
        return None, context

    def step(
        self, tokens: Tensor, states: Any, context: Any, ancestry: Tensor
    ) -> tuple[Tensor, Any, Any, Tensor]:
        """One step of a `BeamSearch`, with the same weights as `call`.

        Returns logits, states, context, and the attention to the source of the last block, the
        mean of its heads.

        Args:
            tokens: integers, (batch, beams).
            states, context, ancestry: as `BeamSearch` passes them.
        """
        t = step_number(ancestry)
        beams, steps = ancestry.shape[1:]
        hidden = self._embedded(tokens, t)
        # Every beam sees all keys of its sentence, those that are not its ancestors masked: that
        # reads each once, where gathering them for each beam would copy all.
        is_read = ancestry[..., None] == ops.arange(beams, dtype="int32")
        is_read = ops.reshape(is_read, (-1, 1, beams, steps * beams))
        cache, attention = [], None
        for block, of_source, kept in zip(
            self.blocks, context["blocks"], context["cache"], strict=True
        ):
            new = block.of_target(hidden)
            kept = [_written(array, t, value) for array, value in zip(kept, new, strict=True)]
            cache.append(kept)
            keys, values = (array[:, :, : steps * beams] for array in kept)
            hidden, attention = block(hidden, keys, values, is_read, of_source, context["mask"])
        logits = self._scores(hidden, context)
        return logits, states, {**context, "cache": cache}, ops.mean(attention, axis=1)

    def _of_source(self, encoded, source, mask):
        """What is computed once for each sentence, whatever the number of beams and steps."""
        if (source is None) != (self.copy_prior is None):
            raise ValueError(
                "source must be given for a decoder with a copy_prior and for no other, got "
                f"{'None' if source is None else 'one'}"
            )
        encoded = ops.convert_to_tensor(encoded)
        if mask is None:
            mask = getattr(encoded, "_keras_mask", None)
        encoded = without_masked(encoded, mask)
        if mask is None:
            mask = ops.ones(ops.shape(encoded)[:2], "bool")
        mask = ops.cast(ops.convert_to_tensor(mask), "bool")
        context = {
            "blocks": [block.of_source(encoded) for block in self.blocks],
            "mask": mask[:, None, None],
        }
        if source is not None:
            context["in_source"] = tokens_in(source, self.vocabulary_size, self.compute_dtype)
        return context

    def _embedded(self, tokens, places):
        """The embeddings, of length about √units, plus the sinusoids of the places."""
        half = self.units // 2
        wide = "float64" if self.compute_dtype == "float64" else "float32"
        frequencies = ops.convert_to_tensor((1e-4 ** (np.arange(half) / half)).astype(wide))
        angles = ops.cast(places, wide)[..., None] * frequencies
        positions = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
        embedded = self.embedding(tokens) * self.units**0.5
        return embedded + ops.cast(positions, embedded.dtype)

    def _scores(self, hidden, context):
        hidden = self.normalization(hidden)
        logits, prior = self.logits(hidden), self.copy_prior
        if prior is None:
            return logits
        return prior(logits, context["in_source"], hidden if prior.gated else None)

    def compute_output_shape(
        self, tokens_shape: Any, encoded_shape: Any, source_shape: Any = None
    ) -> tuple[int | None, ...]:
        return (*tokens_shape, self.vocabulary_size)

    def compute_mask(self, *_: Any, **__: Any) -> Any:
        """No mask, since the loss leaves padding out."""
        return None

    def get_config(self) -> dict[str, Any]:
        names = ["vocabulary_size", "units", "num_heads", "num_layers", "feed_forward", "dropout"]
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
            "copy_prior": name_of(self.copy_prior),
        }


class _Block(keras.layers.Layer):
    """One block; keys and values are (batch, heads, steps, size), made by `of_…`."""

    def __init__(self, units, num_heads, feed_forward, dropout, **options):
        super().__init__(**options)
        self.units, self.num_heads = units, num_heads
        own = {"dtype": self.dtype_policy}  # inner layers would take the global one
        dense = partial(keras.layers.Dense, **own)
        normalization = partial(keras.layers.LayerNormalization, **own)
        self.normalization_target = normalization(epsilon=1e-5, name="normalization_target")
        self.query = dense(units, name="query")
        self.key = dense(units, name="key")
        self.value = dense(units, name="value")
        self.attended = dense(units, name="attended")
        self.normalization_source = normalization(epsilon=1e-5, name="normalization_source")
        self.source_query = dense(units, name="source_query")
        self.source_key = dense(units, name="source_key")
        self.source_value = dense(units, name="source_value")
        self.source_attended = dense(units, name="source_attended")
        self.normalization_inner = normalization(epsilon=1e-5, name="normalization_inner")
        self.inner = dense(feed_forward, activation="relu", name="inner")
        self.outer = dense(units, name="outer")
        self.drop = keras.layers.Dropout(dropout, **own)

    def build(self, hidden_shape, encoded_shape):
        for layer in (
            *(self.normalization_target, self.normalization_source, self.normalization_inner),
            *(self.query, self.key, self.value, self.attended),
            *(self.source_query, self.source_attended, self.inner),
        ):
            layer.build((None, None, self.units))
        self.source_key.build((None, None, encoded_shape[-1]))
        self.source_value.build((None, None, encoded_shape[-1]))
        self.outer.build((None, None, self.inner.units))
        self.built = True

    def of_target(self, hidden):
        """Keys and values of the target's steps, or beams."""
        normalized = self.normalization_target(hidden)
        return self._heads(self.key(normalized)), self._heads(self.value(normalized))

    def of_source(self, encoded):
        """Keys and values of the source's steps."""
        return self._heads(self.source_key(encoded)), self._heads(self.source_value(encoded))

    def call(self, hidden, keys, values, is_read, of_source, is_source, training=False):
        queries = self._heads(self.query(self.normalization_target(hidden)))
        read, _ = _attention(queries, keys, values, is_read)
        hidden = hidden + self.drop(self.attended(self._joined(read)), training=training)
        queries = self._heads(self.source_query(self.normalization_source(hidden)))
        read, weights = _attention(queries, *of_source, is_source)
        hidden = hidden + self.drop(self.source_attended(self._joined(read)), training=training)
        inner = self.inner(self.normalization_inner(hidden))
        return hidden + self.drop(self.outer(inner), training=training), weights

    def _heads(self, array):
        """(batch, steps, units) → (batch, heads, steps, size)."""
        size, (batch, steps, _) = self.units // self.num_heads, ops.shape(array)
        array = ops.reshape(array, (batch, steps, self.num_heads, size))
        return ops.transpose(array, (0, 2, 1, 3))

    def _joined(self, array):
        array = ops.transpose(array, (0, 2, 1, 3))
        return ops.reshape(array, (*ops.shape(array)[:2], self.units))


def _attention(queries, keys, values, mask):
    """What the queries read, (batch, heads, queries, size), and the weights; zeros of no keys."""
    scores = ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2))) * keys.shape[-1] ** -0.5
    weights = normalized(scores, mask)
    return ops.matmul(weights, values), weights


def _written(cache, t, value):
    """The cache (batch, heads, steps · beams, size) with the keys or values of step t."""
    beams = value.shape[2]
    if keras.backend.backend() == "torch":  # whose slice_update copies the cache
        cache[:, :, t * beams : (t + 1) * beams] = value.detach()
        return cache
    return ops.slice_update(cache, (0, 0, t * beams, 0), value)
