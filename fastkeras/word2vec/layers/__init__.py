"""Word2Vec inside Keras models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.word2vec.arguments import choice
from fastkeras.word2vec.layers.sampled_layer import SampledLayer

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.word2vec.vocabulary import Vocabulary


@keras.saving.register_keras_serializable(package="fastkeras")
class SkipGram(SampledLayer):
    """Skip-gram: a center's vector predicts each of its contexts, against words drawn as noise.

    The layer adds its own loss, the mean over the batch, and shows a running `accuracy`: how often
    the target's logit is the highest. So a model needs neither targets nor a loss. The gradients
    are derived by hand (docs/word2vec.md); on TensorFlow those of the matrices are
    `tf.IndexedSlices`, so that `fastkeras.optimizers.Adam(lazy=True)` changes only the rows looked
    up. The loss is a mean, so plain SGD needs a learning rate in proportion to the batch size.

    Args:
        vocabulary: `fastkeras.word2vec.Vocabulary`, whose words and counts are saved with the
            layer, or the number of words.
        vector_size: length of a vector.
        negative: words drawn for each example, or for each batch.
        loss: "sampled_softmax", over the target and the words drawn, or "negative_sampling".
        ns_exponent: words are drawn by count ** ns_exponent; 0, or a vocabulary without counts,
            draws all with equal probability, as in the article.
        sampling_correction: for the sampled softmax: whether to add −log(negative · probability)
            to the logits of words drawn, so that on average its partition function equals that of
            the full softmax.
        shared_negatives: whether all examples of a batch share the words drawn. The losses are then
            products of matrices, several times as fast; draw some hundreds of words.
        tied: whether the output matrix is the input matrix (a "shared softmax").
        use_bias: whether each word has a bias in the logits.
        embeddings_initializer: of the input matrix; None for word2vec's, uniform between
            ±0.5 / vector_size.
        output_initializer: of the output matrix.
        seed: of the words drawn and of the initial input matrix.
        engine: a name in `fastkeras.engines("word2vec.layers")`, or None for the fastest.
        **options: of `keras.layers.Layer`.

    Call arguments:
        inputs: list of centers and contexts, integers of shape (batch,) from 0 to the number of
            words − 1; optionally a third, float (batch, vector_size), that is added to the hidden
            vectors.

    Returns:
        The hidden vectors, (batch, vector_size). A word drawn that equals the target is ignored.

    Raises:
        TypeError: an argument is of another type.
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

    def _parts(self, centers, contexts):
        return contexts, centers, None


@keras.saving.register_keras_serializable(package="fastkeras")
class CBOW(SampledLayer):
    """Continuous bag of words: the vectors of all contexts together predict the center.

    Its gradient is exact. See `SkipGram` for everything else.

    Args:
        vocabulary: as in `SkipGram`.
        *args, **options: the other arguments of `SkipGram`, in the same order.
        combiner: "sum" of the contexts' vectors, as in the article, or "mean".

    Call arguments:
        inputs: list of centers, integers (batch,), and contexts, integers (batch, any), negative
            where there is none; optionally a third, float (batch, vector_size), that is added to
            the hidden vectors.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument is out of range.

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

    def __init__(
        self, vocabulary: Vocabulary | int, *args: Any, combiner: str = "sum", **options: Any
    ) -> None:
        super().__init__(vocabulary, *args, **options)
        self.combiner = choice("combiner", combiner, ("sum", "mean"))

    def _parts(self, centers, contexts):
        dtype = keras.backend.result_type(self.embeddings.dtype, "float32")
        weights = ops.cast(contexts >= 0, dtype)
        if self.combiner == "mean":
            weights = weights / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1)
        return centers, contexts, weights

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {**super().get_config(), "combiner": self.combiner}
