"""Word2Vec inside Keras models."""

import keras
import numpy as np
from keras import ops

from fastkeras.training.metric_layers import MetricLayer
from fastkeras.word2vec.embedding import vectors_of
from fastkeras.word2vec.problem import Settings, tables_of
from fastkeras.word2vec.sampled_loss import IMPOSSIBLE, pooled, rows_of, sampled_loss
from fastkeras.word2vec.vocabulary import Vocabulary

LOSSES = ("sampled_softmax", "negative_sampling")


class _SampledLayer(keras.layers.Layer):
    """What `SkipGram` and `CBOW` have in common: all but the hidden vector and the target."""

    def __init__(
        self,
        vocabulary,
        vector_size=100,
        negative=16,
        loss="sampled_softmax",
        ns_exponent=0.75,
        sampling_correction=False,
        shared_negatives=False,
        tied=False,
        use_bias=False,
        embeddings_initializer=None,
        output_initializer="zeros",
        seed=None,
        **options,
    ):
        super().__init__(**options)
        self.vocabulary = vocabulary
        self.vocabulary_size = vocabulary if _is_int(vocabulary) else len(vocabulary)
        self.vector_size, self.negative = vector_size, negative
        for name in ("vocabulary_size", "vector_size", "negative"):
            value = getattr(self, name)
            if not _is_int(value) or value < 1:
                raise ValueError(f"{name}={value!r} must be an integer of at least 1")
        if loss not in LOSSES:
            raise ValueError(f"loss={loss!r} must be one of {', '.join(map(repr, LOSSES))}")
        if sampling_correction and loss != "sampled_softmax":
            raise ValueError(f"sampling_correction=True must be False with loss={loss!r}")
        if not np.isfinite(ns_exponent):
            raise ValueError(f"ns_exponent={ns_exponent!r} must be a finite number")
        self.loss, self.ns_exponent = loss, ns_exponent
        self.sampling_correction, self.shared_negatives = sampling_correction, shared_negatives
        self.tied, self.use_bias, self.seed = tied, use_bias, seed
        if embeddings_initializer is None:  # that of word2vec.c
            reach = 0.5 / vector_size
            embeddings_initializer = keras.initializers.RandomUniform(-reach, reach, seed)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        self.noise_seed = keras.random.SeedGenerator(seed)
        self.accuracy = MetricLayer("accuracy")

    def build(self, input_shape=None):
        """Make the matrices."""
        shape = (self.vocabulary_size, self.vector_size)
        # The names end so that `lazy=True` of an optimizer finds them.
        self.embeddings = self._add("embeddings", shape, self.embeddings_initializer)
        self.output_embeddings = self.embeddings
        if not self.tied:
            self.output_embeddings = self._add("output_embeddings", shape, self.output_initializer)
        self.bias = self._add("bias_embeddings", shape[:1], "zeros") if self.use_bias else None
        self._noise = self._offsets = None
        if not _is_int(self.vocabulary) and self.ns_exponent:
            self._build_noise(self.vocabulary.counts)
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

    def call(self, inputs):
        """Add the loss; return the hidden vectors."""
        self._check(inputs)
        extra = inputs[2] if len(inputs) == 3 else None
        targets, hidden = self._targets_and_hidden(*(ops.cast(i, "int32") for i in inputs[:2]))
        if extra is not None:
            hidden = hidden + ops.cast(extra, hidden.dtype)
        drawn = self._draw(targets)
        if self.shared_negatives:
            candidates = ops.concatenate([targets, drawn], axis=0)
            drawn = drawn[None]
        else:
            candidates = ops.concatenate([targets[:, None], drawn], axis=1)
        # An accidental hit is no wrong answer.
        offsets = ops.where(drawn == targets[:, None], IMPOSSIBLE, self._correction(drawn))
        losses, hits = ops.unstack(
            sampled_loss(
                self.loss,
                hidden,
                rows_of(self.output_embeddings, candidates),
                None if self.bias is None else rows_of(self.bias, candidates),
                ops.cast(offsets, hidden.dtype),
            ),
            2,
        )
        self.add_loss(ops.mean(losses))
        self.accuracy(hits)
        return ops.cast(hidden, self.compute_dtype)

    def compute_output_spec(self, inputs):
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

    def _correction(self, drawn):
        if not self.sampling_correction:
            return 0.0
        if self._offsets is None:
            return float(np.log(self.vocabulary_size / self.negative))
        return ops.take(self._offsets, drawn, axis=0)

    @property
    def metrics(self):
        """None: `accuracy` is that of a layer inside, and Keras would list it twice."""
        return []

    def vectors(self, words=None):
        """Return `Vectors` of the rows of `embeddings`; see `vectors_of`."""
        return vectors_of(self, words)

    @property
    def words(self):
        """The words of the vocabulary, or None."""
        return None if _is_int(self.vocabulary) else self.vocabulary.words

    def get_config(self):
        """The configuration, with the words and their counts."""
        config = super().get_config()
        names = ("vector_size", "negative", "loss", "ns_exponent", "sampling_correction")
        for name in (*names, "shared_negatives", "tied", "use_bias", "seed"):
            config[name] = getattr(self, name)
        for name in ("embeddings_initializer", "output_initializer"):
            config[name] = keras.initializers.serialize(getattr(self, name))
        config["vocabulary"] = self.vocabulary
        if not _is_int(self.vocabulary):
            counts = self.vocabulary.counts.tolist()
            config["vocabulary"] = {"words": self.vocabulary.words, "counts": counts}
        return config

    @classmethod
    def from_config(cls, config):
        """A layer of this configuration."""
        if isinstance(config["vocabulary"], dict):
            config = {**config, "vocabulary": Vocabulary(**config["vocabulary"])}
        return cls(**config)


@keras.saving.register_keras_serializable(package="fastkeras")
class SkipGram(_SampledLayer):
    """Skip-gram: a center's vector tells each of its contexts from words drawn.

    The layer adds its own loss, the mean over the batch, and shows a running `accuracy`: how often
    the target's logit is the highest. So a model needs neither targets nor a loss. The gradients
    are those derived by hand (docs/word2vec.md); on TensorFlow those of the matrices are
    `tf.IndexedSlices`, of which `fastkeras.optimizers.Adam(lazy=True)` moves only the rows looked
    up. A batch's loss is a mean, so plain SGD needs a learning rate in proportion to the batch.

    Args:
        vocabulary: `fastkeras.word2vec.Vocabulary`, whose words and counts are saved with the
            layer, or the number of words.
        vector_size: length of a vector.
        negative: words drawn for each example, or for each batch.
        loss: "sampled_softmax", over the target and the words drawn, or "negative_sampling".
        ns_exponent: words are drawn by count ** ns_exponent; 0, or a vocabulary without counts,
            draws all alike, as in the article.
        sampling_correction: of the sampled softmax: whether −log(negative · probability) is added
            to the logits of words drawn, which makes its partition function that of the full
            softmax on average.
        shared_negatives: whether all examples of a batch share the words drawn: products of
            matrices, several times as fast; then take some hundreds of them.
        tied: whether the output matrix is the input matrix (a "shared softmax").
        use_bias: whether each word has a bias in the logits.
        embeddings_initializer: of the input matrix; None for word2vec's, uniform on ±1/2 divided by
            the vector size.
        output_initializer: of the output matrix.
        seed: of what is drawn, and of the initial input matrix.
        **options: of `keras.layers.Layer`.

    Call arguments:
        inputs: list of centers and contexts, integers of shape (batch,) from 0 to the number of
            words − 1; optionally a third, float (batch, vector_size), that is added to the hidden
            vectors.

    Returns:
        The hidden vectors, (batch, vector_size). A word drawn that is the target does not count.

    Raises:
        ValueError: an argument out of range, or inputs of other shapes.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.layers import SkipGram
        >>> centers, contexts = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
        >>> skip_gram = SkipGram(1000, vector_size=8)
        >>> model = keras.Model([centers, contexts], skip_gram([centers, contexts]))
        >>> model.compile("adam")
        >>> pairs = [np.array([1, 2]), np.array([2, 3])]
        >>> sorted(model.fit(pairs, None, verbose=0).history)
        ['accuracy', 'loss']
        >>> tuple(skip_gram.embeddings.shape)
        (1000, 8)

    Source: Mikolov et al. 2013, arXiv 1310.4546; the sampled softmax is that of Su Jianlin, 2017,
    https://kexue.fm/archives/4402.
    """

    _ranks = (1, 1, 2)
    _inputs = "(batch,), (batch,) and perhaps (batch, vector_size)"

    def _targets_and_hidden(self, centers, contexts):
        return contexts, rows_of(self.embeddings, centers)


@keras.saving.register_keras_serializable(package="fastkeras")
class CBOW(_SampledLayer):
    """Continuous bag of words: the vectors of all contexts together tell the center.

    Its gradient is exact. See `SkipGram` for everything else.

    Args:
        vocabulary: as in `SkipGram`, and so are all others but these.
        *args, **options: of `SkipGram`, in the same order.
        combiner: "sum" of the contexts' vectors, as in the article, or "mean".

    Call arguments:
        inputs: list of centers, integers (batch,), and contexts, integers (batch, any), negative
            where there is none; optionally a third, float (batch, vector_size), that is added to
            the hidden vectors.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.layers import CBOW
        >>> centers, contexts = keras.Input((), dtype="int32"), keras.Input((4,), dtype="int32")
        >>> model = keras.Model([centers, contexts], CBOW(1000, 8)([centers, contexts]))
        >>> model.compile("adam")
        >>> windows = [np.array([1, 2]), np.array([[0, 2, 3, -1], [1, 3, -1, -1]])]
        >>> history = model.fit(windows, None, verbose=0)

    Source: Mikolov et al. 2013, arXiv 1301.3781; Su Jianlin, 2017, https://kexue.fm/archives/4515.
    """

    _ranks = (1, 2, 2)
    _inputs = "(batch,), (batch, contexts) and perhaps (batch, vector_size)"

    def __init__(self, vocabulary, *args, combiner="sum", **options):
        super().__init__(vocabulary, *args, **options)
        if combiner not in ("sum", "mean"):
            raise ValueError(f"combiner={combiner!r} must be 'sum' or 'mean'")
        self.combiner = combiner

    def _targets_and_hidden(self, centers, contexts):
        # Where there is no context stands a word that the batch has: no other row gets a gradient,
        # not even one of zeros, by which an optimizer would move it on.
        some = ops.maximum(ops.max(contexts), 0)
        v = rows_of(self.embeddings, ops.where(contexts < 0, some, contexts))
        weights = ops.cast(contexts >= 0, v.dtype)
        if self.combiner == "mean":
            weights = weights / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1)
        return centers, pooled(v, weights)

    def get_config(self):
        """The configuration."""
        return {**super().get_config(), "combiner": self.combiner}


def _is_int(value):
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
