"""Windows of a corpus as batches for the layers `SkipGram` and `CBOW`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import keras
import numpy as np

from fastkeras.word2vec.arguments import choice, flag, instance, integer, number
from fastkeras.word2vec.corpus import Corpus
from fastkeras.word2vec.corpus.encoding import id_arrays, mapped
from fastkeras.word2vec.training import sampling
from fastkeras.word2vec.training.settings import OBJECTIVES, reach_of
from fastkeras.word2vec.vocabulary import Vocabulary

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

POSITIONS = 1 << 18  # at a time, so that their random bits stay in the cache


class Windows(keras.utils.PyDataset):
    """Batches of centers and contexts, for `fit`.

    With the same seed as in `Word2Vec`, the same words stay and windows are equally wide. Each
    epoch draws anew and visits the centers in a new order. All batches have the same size: the last
    one is filled up with the first examples of the epoch. Each word that stays takes about 18 bytes
    of memory (10 with "cbow").

    Args:
        corpus: int32 array of ids in which each sentence ends with −1, possibly mapped from a file;
            or anything that `Word2Vec.fit` takes, which is then encoded into such a file.
        vocabulary: `fastkeras.word2vec.Vocabulary` of the corpus.
        objective: "skipgram" for pairs, "cbow" for windows.
        window: words to each side of a center, at most.
        sample: words of a relative frequency f above it stay with probability
            sqrt(sample / f) + sample / f; 0 keeps all.
        shrink_windows: draw each window's width from 1..window, as word2vec.c does.
        batch_size: pairs, or windows, in a batch.
        shuffle: whether centers come in random order. The pairs of a center stay together.
        seed: of all random numbers.
        **options: of `keras.utils.PyDataset`.

    Attributes:
        epoch: number of the present pass; together with the seed it determines all draws. Set it
            to go on where another run has stopped. (To build a model, Keras may begin a pass, and
            end it, before training.)
        num_examples: pairs, or windows, of the epoch.

    `windows[i]` is `((centers, contexts),)`: int32 (batch_size,), and for "skipgram" the same, for
    "cbow" (batch_size, 2 · window) with −1 where there is no context (with a window above 1024 only
    as many columns as the longest sentence needs). `len(windows)` is the number of batches in the
    epoch with which it was made; all other epochs are given as many.

    Raises:
        ValueError: an argument out of range, or a corpus in which no word has a context.

    Example:
        >>> from fastkeras.word2vec.vocabulary import build
        >>> corpus = ["the cat sat", "on the mat the cat"]
        >>> vocabulary = build(corpus, min_count=1)
        >>> windows = Windows(corpus, vocabulary, "cbow", window=2, sample=0, batch_size=8)
        >>> ((centers, contexts),) = windows[0]
        >>> centers.shape, contexts.shape
        ((8,), (8, 4))

    Source: the counter-based numbers are those of docs/word2vec.md.
    """

    def __init__(
        self,
        corpus: Any,
        vocabulary: Vocabulary,
        objective: str = "skipgram",
        window: int = 5,
        sample: float = 1e-4,
        shrink_windows: bool = True,
        batch_size: int = 8192,
        shuffle: bool = True,
        seed: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        choice("objective", objective, OBJECTIVES)
        window = integer("window", window, 1)
        batch_size = integer("batch_size", batch_size, 1)
        seed = integer("seed", seed, 0, None)
        shrink_windows, shuffle = flag("shrink_windows", shrink_windows), flag("shuffle", shuffle)
        if number("sample", sample) < 0:
            raise ValueError(f"sample={sample} must be at least 0")
        self.ids = _ids(corpus, instance("vocabulary", vocabulary, Vocabulary))
        self.keep = sampling.keep_thresholds(vocabulary.counts, sample)
        self.objective, self.window, self.shrink_windows = objective, window, shrink_windows
        self.reach = reach_of(self.ids, window)
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.epoch: int = 0
        self._lock, self._pass = threading.Lock(), None
        self._length = -(-self.num_examples // batch_size)

    def __getstate__(self):
        """All but the lock and the present pass, which another process makes anew."""
        return {**vars(self), "_lock": None, "_pass": None}

    def __setstate__(self, state):
        vars(self).update(state)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[tuple[NDArray[np.int32], ...]]:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        pass_ = self._present()
        cut = pass_.pairs if self.objective == "skipgram" else pass_.windows
        at, missing, parts = index * self.batch_size, self.batch_size, []
        while missing:
            at %= pass_.num_examples
            parts.append(cut(at, min(at + missing, pass_.num_examples)))
            at += len(parts[-1][0])
            missing -= len(parts[-1][0])
        return (tuple(np.concatenate(part) for part in zip(*parts, strict=True)),)

    def on_epoch_end(self) -> None:
        """Go on to the next epoch; Keras calls it."""
        self.epoch += 1

    @property
    def num_examples(self) -> int:
        return self._present().num_examples

    def to_tf_dataset(self) -> Any:
        """Return a `tf.data.Dataset` of the same batches; each iteration over it is an epoch.

        It is shuffled already: `fit(dataset, shuffle=False)`.

        Raises:
            ImportError: TensorFlow is not installed.

        Example:
            >>> from fastkeras.word2vec.vocabulary import Vocabulary
            >>> ids = np.int32([0, 1, 1, 0, -1])
            >>> windows = Windows(ids, Vocabulary(["a", "b"], [2, 2]), sample=0, batch_size=4)
            >>> [(centers.shape, contexts.shape) for (centers, contexts), in
            ...  windows.to_tf_dataset().take(1)]
            [(TensorShape([4]), TensorShape([4]))]
        """
        import tensorflow as tf

        def batches():
            for index in range(len(self)):
                yield self[index]
            self.on_epoch_end()

        contexts = (self.batch_size,)
        if self.objective == "cbow":
            contexts = (self.batch_size, 2 * self.reach)
        shapes = ((self.batch_size,), contexts)
        signature = (tuple(tf.TensorSpec(shape, tf.int32) for shape in shapes),)
        dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
        return dataset.apply(tf.data.experimental.assert_cardinality(len(self))).prefetch(2)

    def _present(self):
        with self._lock:
            if self._pass is None or self._pass.epoch != self.epoch:
                self._pass = None  # free its memory first
                self._pass = _Pass(self)
            return self._pass


class _Pass:
    """The words that stay in an epoch, how far their windows reach, and the order of the centers.

    A center is the place of its word among those that stay; `left` and `right` of it are contexts.
    """

    def __init__(self, windows):
        self.epoch, self.reach = windows.epoch, windows.reach
        key = sampling.key_of(windows.seed, windows.epoch)
        shrink = windows.window if windows.shrink_windows else None
        self.words, reach, sentences = _stayed(
            windows.ids, windows.keep, windows.reach, shrink, key
        )
        self.left, self.right = _sides(reach, sentences, windows.reach)
        order = np.flatnonzero(self.left + self.right).astype(np.min_scalar_type(len(self.words)))
        if not len(order):
            raise ValueError(
                "corpus: no word that stays has another one in its sentence; in a text of few "
                "different words pass sample=0"
            )
        if windows.shuffle:
            np.random.default_rng(key).shuffle(order)
        self.order, self.num_examples, self.ends = order, len(order), None
        if windows.objective == "skipgram":
            self.ends = np.cumsum(self.left[order] + self.right[order], dtype=np.int64)
            self.num_examples = int(self.ends[-1])

    def pairs(self, first, last):
        """Return centers and contexts of the pairs first..last-1."""
        of_order = slice(
            np.searchsorted(self.ends, first, "right"),
            np.searchsorted(self.ends, last - 1, "right") + 1,
        )
        centers, ends = self.order[of_order].astype(np.int64), self.ends[of_order]
        left = self.left[centers].astype(np.int64)
        sizes = left + self.right[centers]
        # The n-th context of a center has the distance n − left; from n = left on one more, since
        # the center itself is skipped.
        begins = ends - sizes
        pairs = np.arange(first, last)
        counted = np.minimum(ends, last) - np.maximum(begins, first)
        place = pairs - np.repeat(begins + left, counted)
        place += place >= 0
        return np.repeat(self.words[centers], counted), self.words[
            place + np.repeat(centers, counted)
        ]

    def windows(self, first, last):
        """Return centers and contexts of the windows first..last-1."""
        centers = self.order[first:last].astype(np.int64)
        distances = np.arange(1, self.reach + 1)
        is_left = distances[::-1] <= self.left[centers, None]
        is_right = distances <= self.right[centers, None]
        distances = np.concatenate([-distances[::-1], distances])
        near = np.clip(centers[:, None] + distances, 0, len(self.words) - 1)
        there = np.concatenate([is_left, is_right], axis=1)
        return self.words[centers], np.where(there, self.words[near], np.int32(-1))


def _stayed(ids, keep, most, shrink, key):
    """Return the words that stay, the widths of their windows, and numbers of their sentences."""
    words, reach, sentences, ended = [], [], [], 0
    for begin in range(0, len(ids), POSITIONS):
        part = np.asarray(ids[begin : begin + POSITIONS])
        bits = sampling.bits_at(key, np.arange(begin, begin + len(part)))
        is_end = part < 0
        stays = np.flatnonzero(~is_end & sampling.stays(bits, keep[part]))
        ends = np.cumsum(is_end) + ended
        ended = ends[-1]
        words.append(part[stays])
        widths = sampling.window_of(bits[stays], shrink) if shrink else np.full(len(stays), most)
        reach.append(np.minimum(widths, most).astype(np.min_scalar_type(2 * most)))
        sentences.append(ends[stays].astype(np.int32))
    return tuple(map(np.concatenate, (words, reach, sentences)))


def _sides(reach, sentences, window):
    """Return how many contexts each word has to its left, and to its right."""
    left, right = np.zeros_like(reach), np.zeros_like(reach)
    for distance in range(1, min(window, len(reach) - 1) + 1):
        same = sentences[distance:] == sentences[:-distance]
        if not same.any():  # then none at larger distances either
            break
        left[distance:] += same & (reach[distance:] >= distance)
        right[:-distance] += same & (reach[:-distance] >= distance)
    return left, right


def _ids(corpus, vocabulary):
    if not (isinstance(corpus, np.ndarray) and corpus.dtype.kind in "iu"):
        corpus = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
        corpus = mapped(id_arrays(corpus, vocabulary.words, 0), None)
    if corpus.ndim != 1:
        raise ValueError(f"corpus of ids has shape {corpus.shape}; it must have one dimension")
    if not len(corpus) or corpus.max() >= len(vocabulary):
        raise ValueError(f"corpus must have ids, below {len(vocabulary)} (words of the vocabulary)")
    return corpus
