"""The trainer: a corpus goes in, vectors come out."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from fastkeras import _engines
from fastkeras.word2vec.arguments import flag, integer
from fastkeras.word2vec.training import engine as engines
from fastkeras.word2vec.training import loop, matrices, model_files, parts, prediction
from fastkeras.word2vec.training.arguments import check_later, check_options, checked, settings_of
from fastkeras.word2vec.training.inputs import as_corpus, counted, encoded, vocabulary_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Self

    from numpy.typing import NDArray

    from fastkeras.typing import FilePath
    from fastkeras.word2vec.training.progress import Status
    from fastkeras.word2vec.vectors.vectors import Vectors
    from fastkeras.word2vec.vocabulary import Vocabulary


class Word2Vec:
    """Skip-gram and CBOW vectors of words, trained by hand-derived gradients in native kernels.

    Mikolov et al. 2013 (arXiv 1301.3781, 1310.4546); docs/word2vec.md derives the gradients.

    Args:
        vector_size: length of a vector.
        window: words to each side of a center, at most; None takes the whole sentence, whose pairs
            grow with the square of its length.
        min_count: rarer words are left out.
        negative: words drawn as noise for a center (or for a pair of skip-gram, see
            `shared_negatives`).
        ns_exponent: they are drawn by count ** ns_exponent.
        sample: words of a relative frequency f above it stay with probability
            sqrt(sample / f) + sample / f; 0 keeps all. None takes 1e-4, or ten times the mean
            frequency if that is more, so that items and small vocabularies are thinned out less.
        objective: "skipgram" or "cbow".
        loss: "negative_sampling"; "hierarchical_softmax"; the sum of both,
            "hierarchical_softmax_and_negative_sampling"; or "sampled_softmax": the softmax over a
            word and those drawn, ignoring draws that equal the word (with ns_exponent=0 the random
            softmax of Su).
        shared_negatives: for skip-gram: "window" draws one set for all pairs of a window and
            computes their gradients together, several times as fast (Ji et al. 2016, arXiv
            1604.04661); None draws a set for each pair, one after the other, as word2vec.c does.
        cbow_gradient: "exact" gives each context its share of the error (İrsoy et al. 2020, arXiv
            2012.15332), "word2vec" all of it, as word2vec.c and gensim do.
        sampling_correction: for the sampled softmax: whether to add −log(negative · probability)
            to the logits of words drawn, so that on average its partition function equals that of
            the full softmax.
        learning_rate: at the start; by default 0.025 for skip-gram, and for CBOW 0.25 with the
            exact gradient and 0.05 with word2vec's. With subwords 0.18 (0.1 if
            `deterministic`), 0.5 and 0.2.
        end_learning_rate: at the end; the rate falls linearly over all words of all epochs.
        epochs: passes over the corpus.
        max_vocab: keep at most this many words, the most frequent; None keeps all.
        subwords: a word's vector is the mean of a row of its own and of rows of its n-grams
            (Bojanowski et al. 2017, arXiv 1607.04606), so that unknown words have vectors too.
        min_n, max_n: letters of an n-gram, with `<` before and `>` after a word.
        buckets: n-grams share at most so many rows, by fastText's hash.
        subword_gradient: "exact" gives each row of a word its share, "fasttext" the whole gradient.
        shrink_windows: draw each window's width from 1..window, as word2vec.c does.
        early_stopping: stop after an epoch that has not lowered the loss by this fraction; None
            never does.
        dtype: "float32".
        num_threads: 0 for all processors.
        seed: of all random numbers. With one thread a run repeats bit for bit; several threads
            update rows without locks, so that runs differ.
        deterministic: get the same bits on any number of threads, at some cost: the blocks of a
            round do not see each other's changes.
        engine: "native", "numba" or "reference", by default the first that is available; or "cupy"
            for a GPU of NVIDIA, without subwords. There `num_threads` is how many places of the
            text are trained at once, and 0 lets the frequency of its words decide.

    Attributes:
        vocabulary: of the corpus, with `words`, `counts` and `index`; None before `fit`.
        history: dict of lists with an entry for each epoch: `loss`, the mean over its predictions,
            and `words_per_second`.

    Raises:
        ValueError, TypeError: an argument is not allowed.

    Example:
        >>> from fastkeras.word2vec import Word2Vec
        >>> Word2Vec(vector_size=50, window=3)
        Word2Vec(vector_size=50, objective='skipgram', loss='negative_sampling', untrained)
    """

    def __init__(
        self,
        vector_size: int = 100,
        window: int | None = 5,
        min_count: int = 5,
        negative: int = 5,
        ns_exponent: float = 0.75,
        sample: float | None = None,
        objective: str = "skipgram",
        loss: str = "negative_sampling",
        shared_negatives: str | None = "window",
        cbow_gradient: str = "exact",
        sampling_correction: bool = False,
        learning_rate: float | None = None,
        end_learning_rate: float = 1e-4,
        epochs: int = 5,
        max_vocab: int | None = None,
        subwords: bool = False,
        min_n: int = 3,
        max_n: int = 6,
        buckets: int = 2_000_000,
        subword_gradient: str = "exact",
        shrink_windows: bool = True,
        early_stopping: float | None = None,
        dtype: str = "float32",
        num_threads: int = 0,
        seed: int = 1,
        deterministic: bool = False,
        engine: str | None = None,
    ) -> None:
        config = {name: value for name, value in locals().items() if name not in ("self", "engine")}
        self.config = checked(config)
        self.vocabulary: Any = None
        self._settings = settings_of(self.config)
        self._engine = engines.engine_of(self.config, engine)
        self._elsewhere = None  # what has the newest matrices while an engine trains copies of them
        self._state = loop.new_state(self.config["epochs"], loop.new_schedule(self.config))
        self._matrices: Any = None
        self._bags: Any = None
        self._corpus_size: int | None = None

    def __repr__(self) -> str:
        trained = "untrained" if self.vocabulary is None else f"{len(self.vocabulary.words)} words"
        of_config = ("vector_size", "objective", "loss")
        return f"Word2Vec({', '.join(f'{n}={self.config[n]!r}' for n in of_config)}, {trained})"

    @property
    def history(self) -> dict[str, list[float]]:
        return self._state["history"]

    @property
    def input_embeddings(self) -> NDArray[np.float32]:
        """The input matrix, float32 (words, vector_size): the vectors. A view, not a copy.

        With subwords it has the words' own rows and then those of n-grams; vectors are means of
        rows.
        """
        return self._fitted()[0][:, : self.config["vector_size"]]

    @property
    def output_embeddings(self) -> NDArray[np.float32]:
        """The output matrix, a row for each word, or inner node of the hierarchical softmax.

        With both losses it has the words first, then the inner nodes.
        """
        return self._fitted()[1][:, : self.config["vector_size"]]

    @property
    def vectors(self) -> Vectors:
        """`Vectors` of the words, to query, evaluate and save. They share the model's memory.

        With subwords they are `SubwordVectors`, computed now: even `model.vectors["unseen"]` works.
        """
        self._fitted()
        words, counts = self.vocabulary.words, self.vocabulary.counts
        if self._bags is not None:
            from fastkeras.word2vec.vectors.subword_vectors import SubwordVectors

            buckets, min_n, max_n = (self.config[name] for name in ("buckets", "min_n", "max_n"))
            return SubwordVectors(
                words, self.input_embeddings, self._bags, buckets, min_n, max_n, counts
            )
        from fastkeras.word2vec.vectors import Vectors

        return Vectors(words, self.input_embeddings, counts)

    def fit(
        self,
        corpus: Any,
        *,
        vocabulary: Vocabulary | None = None,
        progress: bool = True,
        callbacks: Sequence[Callable[[Status], Any]] = (),
        epoch_callbacks: Sequence[Callable[[Self], Any]] = (),
        checkpoint: FilePath | None = None,
        checkpoint_minutes: float = 10,
    ) -> Self:
        """Count the words, make new vectors, and train them.

        Args:
            corpus: what a `Corpus` is made of: a path or pattern of text files, plain or
                compressed, a list of them, or sentences (strings or lists of words) that can be
                read several times; or, with a vocabulary, an encoded corpus: int32 (positions,),
                word ids in the order of the vocabulary, each sentence ended by −1.
            vocabulary: a `Vocabulary`; by default that of the corpus.
            progress: whether to show bars with words/s, loss, learning rate and the time left.
            callbacks: functions that get a `progress.Status` about four times a second; training
                ends if one returns True.
            epoch_callbacks: functions that get the model after each epoch, to save or to evaluate
                it; training ends if one returns True.
            checkpoint: a path where the model is saved now and then and at the end, for `load`.
            checkpoint_minutes: how often.

        Returns:
            Itself.

        Raises:
            TypeError: `vocabulary` is something else.
            ValueError: no word of the corpus is frequent enough, or ids do not fit the vocabulary.
            FloatingPointError: the loss is not finite: the learning rate is too large.
            KeyboardInterrupt: after Ctrl-C, once the block has ended and the checkpoint is written;
                the model can be used, saved, and resumed.
        """
        options = {
            "progress": progress,
            "callbacks": callbacks,
            "epoch_callbacks": epoch_callbacks,
            "checkpoint": checkpoint,
            "checkpoint_minutes": checkpoint_minutes,
        }
        check_options(options)
        corpus = as_corpus(corpus)
        vocabulary = vocabulary_of(corpus, vocabulary, self.config, progress)
        ids = encoded(corpus, vocabulary, self.config["num_threads"])
        parts.begin(self, vocabulary)
        parts.train(self, ids, **options)
        return self

    def resume(self, corpus: Any, **options: Any) -> Self:
        """Go on where the last `fit` or `partial_fit` stopped, or where its checkpoint was written.

        Args:
            corpus: the one it was trained on.
            **options: as in `fit`; and `learning_rate` and `end_learning_rate`, between which the
                rate falls from here to the end, a later `resume` included; and `num_threads`, for
                this call. By default all go on as they were.

        Returns:
            Itself, unchanged if nothing was left to do.

        Raises:
            ValueError: the corpus has another size than that of the training, or there was none.
        """
        self._fitted()
        options, threads, rates = check_later(options)
        ids = self._encoded(as_corpus(corpus), threads)
        parts.check_size(self, ids)
        if rates:
            self._state["schedule"] = loop.schedule_from_here(self._state, len(ids), rates)
        parts.train(self, ids, threads, **options)
        return self

    def partial_fit(
        self, corpus: Any, *, epochs: int = 1, new_words: bool = True, **options: Any
    ) -> Self:
        """Train the model further, on another corpus; the learning rate falls as in `fit`.

        Args:
            corpus: as in `fit`.
            epochs: passes over it.
            new_words: whether words that are new and frequent enough get vectors too; not with the
                hierarchical softmax, whose tree is fixed by the first vocabulary.
            **options: as in `fit`; and `learning_rate`, `end_learning_rate` and `num_threads`, for
                this training; by default those of the model.

        Returns:
            Itself.

        Raises:
            ValueError: there was no `fit` before, or an argument is out of range.
        """
        if self.vocabulary is None:
            raise ValueError("the model has no vectors yet: call fit first")
        options, threads, rates = check_later(options)
        epochs, new_words = integer("epochs", epochs, 1), flag("new_words", new_words)
        corpus = as_corpus(corpus)
        if new_words and not isinstance(corpus, np.ndarray):
            parts.add_words(self, counted(corpus, self.config, options.get("progress", True)))
        ids = self._encoded(corpus, threads)
        first = self._state["first_epoch"] + self._state["epoch"] + 1
        schedule = loop.new_schedule(self.config, **rates)
        self._state = loop.new_state(epochs, schedule, first, self.history)
        parts.train(self, ids, threads, **options)
        return self

    def predict_output_word(
        self, context_words: Sequence[str], topn: int = 10
    ) -> list[tuple[str, float]]:
        """Return the words that are most probable among others, by the softmax over all words.

        Args:
            context_words: the others; unknown ones are left out.
            topn: how many words to return.

        Returns:
            List of pairs `(word, probability)`, the most probable first.

        Raises:
            KeyError: no word has a vector.
            ValueError: the model has the hierarchical softmax alone.
        """
        return prediction.likely_words(self, context_words, topn)

    def score(self, sentences: Iterable[str | Sequence[str]]) -> NDArray[np.float64]:
        """Return the log-probability of each sentence, by the hierarchical softmax.

        It is the sum over all words, and with skip-gram over all their contexts, of the logarithm
        of the word's probability; with CBOW the mean of the contexts predicts it. Unknown words are
        left out. Taddy 2015 (arXiv 1504.07295) classifies texts by it.

        Args:
            sentences: strings, or lists of words.

        Returns:
            float64 array (sentences,).

        Raises:
            ValueError: the model has no hierarchical softmax.
        """
        self._fitted()
        return prediction.log_probabilities(self, sentences)

    def save(self, path: FilePath) -> None:
        """Write the model, with all that `resume` needs, to one file."""
        self._fitted()
        model_files.write(self, path)

    @classmethod
    def load(cls, path: FilePath, engine: str | None = None) -> Word2Vec:
        """Read a model that `save` or a checkpoint wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a model.
        """
        return model_files.read(cls, path, engine)[0]

    def __getstate__(self):
        """All but the engine, kept as its name, since modules can be neither pickled nor copied."""
        self._fetch()
        return {**vars(self), "_engine": _engines.name_of(self._engine), "_elsewhere": None}

    def __setstate__(self, kept):
        """Find the engine, or another where it is missing; align the rows to cache lines again."""
        vars(self).update(kept)
        if _engines.engines("word2vec").get(kept["_engine"]) != "ready":
            kept["_engine"] = None
        self._engine = engines.engine_of(self.config, kept["_engine"])
        if self._matrices is not None:
            self._matrices = [matrices.padded_copy(matrix) for matrix in self._matrices]
        self._state = copy.deepcopy(self._state)

    def _fitted(self):
        if self._matrices is None:
            raise ValueError("the model has no vectors yet: call fit first")
        self._fetch()
        return self._matrices

    def _fetch(self):
        if self._elsewhere is not None:
            self._elsewhere.fetch()

    def _encoded(self, corpus, threads):
        threads = self.config["num_threads"] if threads is None else threads
        return encoded(corpus, self.vocabulary, threads)
