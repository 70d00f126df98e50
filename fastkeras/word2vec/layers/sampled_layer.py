"""What `SkipGram` and `CBOW` have in common: weights, words drawn, the loss, the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from fastkeras._arrays import as_int32
from fastkeras._engines import check_engine, engine_for
from fastkeras.training.metric_layers import MetricLayer
from fastkeras.word2vec.arguments import choice, flag, integer, number, shown
from fastkeras.word2vec.layers.embedding import vectors_of
from fastkeras.word2vec.training.settings import Settings, tables_of
from fastkeras.word2vec.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self

    from typing_extensions import TypeIs

    from fastkeras.typing import Identifier, Tensor
    from fastkeras.word2vec.vectors.vectors import Vectors

LOSSES = ("sampled_softmax", "negative_sampling")


class SampledLayer(keras.layers.Layer):
    """What `SkipGram` and `CBOW` have in common: all but the hidden vector and the target."""

    def __init__(
        self,
        vocabulary: Vocabulary | int,
        vector_size: int = 100,
        negative: int = 16,
        loss: str = "sampled_softmax",
        ns_exponent: float = 0.75,
        sampling_correction: bool = False,
        shared_negatives: bool = False,
        tied: bool = False,
        use_bias: bool = False,
        embeddings_initializer: Identifier | None = None,
        output_initializer: Identifier = "zeros",
        seed: int | None = None,
        engine: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not (isinstance(vocabulary, Vocabulary) or _is_int(vocabulary)):
            raise TypeError(
                f"vocabulary={shown(vocabulary)} must be a fastkeras.word2vec.Vocabulary or the "
                "number of words"
            )
        self.vocabulary = vocabulary
        self.vocabulary_size = vocabulary if _is_int(vocabulary) else len(vocabulary)
        self.vector_size, self.negative = vector_size, negative
        for name in ("vocabulary_size", "vector_size", "negative"):
            value = getattr(self, name)
            if not _is_int(value) or value < 1:
                raise ValueError(f"{name}={shown(value)} must be an integer of at least 1")
        choice("loss", loss, LOSSES)
        check_engine("word2vec.layers", engine)
        self.sampling_correction = flag("sampling_correction", sampling_correction)
        self.shared_negatives = flag("shared_negatives", shared_negatives)
        self.tied, self.use_bias = flag("tied", tied), flag("use_bias", use_bias)
        if sampling_correction and loss != "sampled_softmax":
            raise ValueError(f"sampling_correction=True must be False with loss={loss!r}")
        self.loss, self.ns_exponent = loss, number("ns_exponent", ns_exponent)
        self.seed = None if seed is None else integer("seed", seed, 0, None)
        self.engine = engine
        if embeddings_initializer is None:  # that of word2vec.c
            reach = 0.5 / vector_size
            embeddings_initializer = keras.initializers.RandomUniform(-reach, reach, seed)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        self.noise_seed = keras.random.SeedGenerator(seed)
        self.accuracy = MetricLayer("accuracy")

    def build(self, input_shape: Any = None) -> None:
        """Make the matrices."""
        shape = (self.vocabulary_size, self.vector_size)
        # Optimizers with `lazy=True` find these matrices by the end of their names.
        self.embeddings = self._add("embeddings", shape, self.embeddings_initializer)
        self.output_embeddings = self.embeddings
        if not self.tied:
            self.output_embeddings = self._add("output_embeddings", shape, self.output_initializer)
        self.bias = self._add("bias_embeddings", shape[:1], "zeros") if self.use_bias else None
        self._noise = self._offsets = None
        if not _is_int(self.vocabulary) and self.ns_exponent:
            self._build_noise(self.vocabulary.counts)
        elif self.sampling_correction:
            self._offsets = float(np.float32(np.log(self.vocabulary_size / self.negative)))
        self.accuracy.build(None)

    def _build_noise(self, counts):
        settings = Settings(loss="sampled_softmax", negative=self.negative)
        tables = tables_of(counts, settings, 0.0, self.ns_exponent, self.sampling_correction)
        self._noise = [
            self._add_table("noise_probabilities", tables.noise[:, 0] / 2.0**32, "float32"),
            self._add_table("noise_alias", tables.noise[:, 1], "int32"),
        ]
        if self.sampling_correction:
            self._offsets = self._add_table("logit_offsets", tables.logit_offsets, "float32")

    def _add(self, name, shape, initializer):
        return self.add_weight(shape, initializer, autocast=False, name=name)

    def _add_table(self, name, table, dtype):
        return self.add_weight(
            table.shape,
            lambda shape, dtype: ops.convert_to_tensor(table.astype(dtype)),
            dtype,
            trainable=False,
            autocast=False,
            name=name,
        )

    def call(self, inputs: Any) -> Tensor:
        """Add the loss; return the hidden vectors."""
        self._check(inputs)
        targets, ids, weights = self._parts(*map(as_int32, inputs[:2]))
        engine = engine_for("word2vec.layers", targets, self.engine)
        hidden = engine.pooled(self.embeddings, ids, weights)
        if len(inputs) == 3:
            hidden = hidden + ops.cast(inputs[2], hidden.dtype)
        drawn = self._draw(targets)
        losses, hits = engine.sampled_loss(
            self.loss, hidden, self.output_embeddings, self.bias, targets, drawn, self._offsets
        )
        self.add_loss(ops.mean(losses))
        self.accuracy(hits)
        return ops.cast(hidden, self.compute_dtype)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Hidden vectors, (batch, vector_size)."""
        self._check(inputs)
        shape = (inputs[0].shape[0], self.vector_size)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def _check(self, inputs):
        shapes = [tuple(tensor.shape) for tensor in inputs]
        if len(shapes) not in (2, 3) or any(
            len(s) != rank for s, rank in zip(shapes, self._ranks, strict=False)
        ):
            raise ValueError(f"inputs of shapes {shapes} must be {self._inputs}")
        if len(shapes) == 3 and shapes[2][1] != self.vector_size:
            raise ValueError(
                f"extra input of shape {shapes[2]} must be (batch, {self.vector_size})"
            )

    def _draw(self, targets):
        shape = (self.negative,)
        if not self.shared_negatives:
            shape = (ops.shape(targets)[0], self.negative)
        words = keras.random.randint(shape, 0, self.vocabulary_size, seed=self.noise_seed)
        if self._noise is None:
            return words
        probabilities, alias = self._noise
        coins = keras.random.uniform(shape, dtype="float32", seed=self.noise_seed)
        itself = coins < ops.take(probabilities, words, axis=0)
        return ops.where(itself, words, ops.take(alias, words, axis=0))

    @property
    def metrics(self) -> list[Any]:
        """None: a layer inside reports `accuracy`, and Keras would list it twice."""
        return []

    def vectors(self, words: Sequence[str] | None = None) -> Vectors:
        """Return `Vectors` of the rows of `embeddings`; see `vectors_of`."""
        return vectors_of(self, words)

    @property
    def words(self) -> list[str] | None:
        """The words of the vocabulary, or None."""
        return None if _is_int(self.vocabulary) else self.vocabulary.words

    def get_config(self) -> dict[str, Any]:
        """The configuration, with the words and their counts."""
        config = super().get_config()
        names = ("vector_size", "negative", "loss", "ns_exponent", "sampling_correction")
        for name in (*names, "shared_negatives", "tied", "use_bias", "seed", "engine"):
            config[name] = getattr(self, name)
        for name in ("embeddings_initializer", "output_initializer"):
            config[name] = keras.initializers.serialize(getattr(self, name))
        config["vocabulary"] = self.vocabulary
        if not _is_int(self.vocabulary):
            counts = self.vocabulary.counts.tolist()
            config["vocabulary"] = {"words": self.vocabulary.words, "counts": counts}
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """A layer of this configuration."""
        if isinstance(config["vocabulary"], dict):
            config = {**config, "vocabulary": Vocabulary(**config["vocabulary"])}
        return cls(**config)


def _is_int(value: object) -> TypeIs[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
