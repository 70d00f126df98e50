"""Vectors of documents: paragraph vectors, by the kernels of Word2Vec."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from fastkeras import _engines
from fastkeras.word2vec.arguments import flag, integer, number, shown, strings
from fastkeras.word2vec.corpus import Corpus
from fastkeras.word2vec.corpus.document_ids import document_ids
from fastkeras.word2vec.training import checkpoint as checkpoints
from fastkeras.word2vec.training import inference, loop, matrices, model_files, parts, settings
from fastkeras.word2vec.training.arguments import check_later, check_options
from fastkeras.word2vec.training.inputs import as_corpus, vocabulary_of
from fastkeras.word2vec.training.trainer import Word2Vec
from fastkeras.word2vec.vectors import Vectors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self

    from numpy.typing import NDArray

    from fastkeras.typing import FilePath
    from fastkeras.word2vec.vocabulary import Vocabulary

MEMBERS = {"documents": (np.uint8, 1), "document_embeddings": (np.float32, 2)}  # of a saved model


class Doc2Vec:
    """Vectors of documents that predict their words, alone or together with the words around them.

    Le & Mikolov 2014 (arXiv 1405.4053). With `objective="skipgram"` each word is predicted from its
    document (PV-DBOW), and with `neighbors=True` from each word around it too; with
    `objective="cbow"` and `neighbors=True` from the mean of all of these (PV-DM).

    Args:
        neighbors: whether the words around a word predict it too. Without, words have no vectors of
            their own, and training is fastest.
        engine: "native" or "reference", by default the first that is available.
        **options: of `Word2Vec`, but for `subwords`: `vector_size`, `window`, `epochs`, ...

    Attributes:
        documents: list of the documents' names; None before `fit`.
        vocabulary: of the corpus; None before `fit`.
        config: dict of the arguments.

    Raises:
        TypeError, ValueError: an argument is unknown or not allowed.

    Example:
        >>> from fastkeras.word2vec import Doc2Vec
        >>> texts = ["cats purr and sleep", "dogs bark and run", "cats sleep"] * 20
        >>> names = [f"{kind}-{i}" for i in range(20) for kind in ("cat", "dog", "nap")]
        >>> model = Doc2Vec(vector_size=16, min_count=1, epochs=20, num_threads=1)
        >>> model = model.fit(texts, names, progress=False)
        >>> model.document_vectors.most_similar("dog-0", topn=1)[0][0][:3]
        'dog'
        >>> model.infer(["dogs run"]).shape
        (1, 16)
    """

    def __init__(self, neighbors: bool = False, engine: str | None = None, **options: Any) -> None:
        neighbors = flag("neighbors", neighbors)
        if options.get("subwords"):
            raise ValueError("subwords=True is not possible beside documents; leave it out")
        found = _engines.engine_for("word2vec", np.empty(0), engine, "DOCUMENTS", "documents")
        self._model = Word2Vec(**options, engine=_engines.name_of(found))
        alone = {"documents_alone": not neighbors}
        if not neighbors:  # one input at a time has nothing to share
            alone["shared_negatives"] = False
        self._model._settings = self._model._settings._replace(**alone)
        self.config = {"neighbors": neighbors, **self._model.config}
        self.documents: Any = None
        self._vectors: Any = None
        self._tables: Any = None

    def __repr__(self) -> str:
        of_config = ("vector_size", "objective", "neighbors")
        trained = "untrained" if self.documents is None else f"{len(self.documents)} documents"
        return f"Doc2Vec({', '.join(f'{n}={self.config[n]!r}' for n in of_config)}, {trained})"

    @property
    def vocabulary(self) -> Any:
        return self._model.vocabulary

    @property
    def history(self) -> dict[str, list[float]]:
        """As that of `Word2Vec`."""
        return self._model.history

    @property
    def vectors(self) -> Vectors:
        """`Vectors` of the words; they have been trained only with `neighbors=True`."""
        return self._model.vectors

    @property
    def document_vectors(self) -> Vectors:
        """`Vectors` of the documents by their names, to query and save. They share memory."""
        self._model._fitted()
        return Vectors(self.documents, self._vectors[:, : self.config["vector_size"]])

    def fit(
        self,
        corpus: Any,
        documents: Sequence[str] | None = None,
        *,
        vocabulary: Vocabulary | None = None,
        **options: Any,
    ) -> Self:
        """Count the words, make new vectors, and train them.

        Args:
            corpus: documents that can be read several times: a path of text files with a document
                a line, or an iterable of strings or lists of words.
            documents: a name for each; those of one name share a vector. By default they are
                numbered from "0".
            vocabulary: a `Vocabulary`; by default that of the corpus.
            **options: `progress`, `callbacks`, `epoch_callbacks`, `checkpoint` and
                `checkpoint_minutes` of `Word2Vec.fit`.

        Returns:
            Itself.

        Raises:
            TypeError, ValueError: names and documents do not fit each other, or as `Word2Vec.fit`.
        """
        check_options(options)
        corpus = _as_documents(corpus)
        progress = options.get("progress", True)
        vocabulary = vocabulary_of(corpus, vocabulary, self.config, progress)
        names, ids, rows = _encoded(corpus, vocabulary, documents, self.config["num_threads"])
        shape = len(names), settings.padded(self.config["vector_size"])
        vectors = matrices.zero_rows(*shape)
        matrices.draw(vectors[:, : self.config["vector_size"]], [self.config["seed"], 1])
        parts.begin(self._model, vocabulary)
        self.documents, self._vectors, self._tables = names, vectors, None
        return self._train(ids, rows, None, options)

    def resume(self, corpus: Any, documents: Sequence[str] | None = None, **options: Any) -> Self:
        """Go on where the last training stopped, or where its checkpoint was written.

        Args:
            corpus, documents: those it was trained on.
            **options: as in `Word2Vec.resume`.

        Returns:
            Itself, unchanged if nothing was left to do.
        """
        self._model._fitted()
        options, threads, rates = check_later(options)
        threads_of = self.config["num_threads"] if threads is None else threads
        of_corpus = _as_documents(corpus), self.vocabulary, documents
        names, ids, rows = _encoded(*of_corpus, threads_of)
        if names != self.documents:
            raise ValueError(
                f"documents: there are {len(names)}, the training had {len(self.documents)} or "
                "other names"
            )
        parts.check_size(self._model, ids)
        if rates:
            place = self._model._state
            place["schedule"] = loop.schedule_from_here(place, len(ids), rates)
        return self._train(ids, rows, threads, options)

    def infer(
        self,
        documents: Iterable[Any],
        *,
        epochs: int | None = None,
        learning_rate: float | None = None,
    ) -> NDArray[np.float32]:
        """Return vectors of other documents, trained while all words stay as they are.

        A document's vector depends on its words alone, not on what else is asked.

        Args:
            documents: strings or lists of words.
            epochs: passes over each document; None takes that of the model.
            learning_rate: at the start; None takes that of the model.

        Returns:
            float32 (documents, vector_size); zeros for a document without a known word, or of which
            `sample` has left none.

        Raises:
            FloatingPointError: the loss is not finite: the learning rate is too large.
        """
        self._model._fitted()
        if not isinstance(documents, str | os.PathLike | Corpus):
            documents = _listed(documents)
        config = self.config
        epochs = config["epochs"] if epochs is None else integer("epochs", epochs, 1)
        if learning_rate is None:
            learning_rate = config["learning_rate"]
        first = number("learning_rate", learning_rate, 0)
        last = min(config["end_learning_rate"], first)
        if self._tables is None:
            self._tables = parts.tables_of(self._model)
        ids = (
            np.array([*_known(words, self.vocabulary.index), -1], np.int32)
            for words in _as_documents(documents).documents()
        )
        found = [*inference.vectors_of(self._model, self._tables, ids, epochs, first, last)]
        return np.stack(found) if found else np.zeros((0, config["vector_size"]), np.float32)

    def save(self, path: FilePath) -> None:
        """Write the model to one file; `Word2Vec.load` reads it too, as a model of the words."""
        self._model._fitted()
        model_files.write(
            self._model,
            path,
            {"neighbors": self.config["neighbors"]},
            documents=checkpoints.as_bytes(self.documents),
            document_embeddings=self._vectors[:, : self.config["vector_size"]],
        )

    @classmethod
    def load(cls, path: FilePath, engine: str | None = None) -> Doc2Vec:
        """Read a model that `save` or a checkpoint wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a model of documents.
        """
        model, about, arrays = model_files.read(Word2Vec, path, None, MEMBERS)
        names = checkpoints.from_json(arrays["documents"], f"{path}: documents")
        vectors = arrays["document_embeddings"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: documents must be a list of strings")
        expected = len(names), model.config["vector_size"]
        if vectors.shape != expected or len({*names}) < len(names):
            raise ValueError(
                f"{path}: document_embeddings has shape {vectors.shape}; there must be a row for "
                f"each of {len({*names})} different documents, {expected}"
            )
        try:
            loaded = cls(about.get("neighbors"), engine, **model.config)
        except (TypeError, ValueError) as error:
            raise ValueError(f"path={str(path)!r} is not a Doc2Vec model: {error}") from error
        settings_, engine_ = loaded._model._settings, loaded._model._engine
        loaded._model = model
        model._settings, model._engine = settings_, engine_
        loaded.documents, loaded._vectors = names, matrices.padded_copy(vectors)
        return loaded

    def _train(self, ids, rows, threads, options):
        of_documents = settings.Documents(rows, self._vectors)
        parts.train(self._model, ids, threads, of_documents, self, **options)
        return self


def _as_documents(corpus):
    corpus = as_corpus(corpus)
    if not isinstance(corpus, Corpus):
        raise TypeError("corpus is an array of ids; documents are strings or lists of words")
    return corpus


def _listed(documents):
    """Return a list of documents, checked."""
    if isinstance(documents, bytes) or not isinstance(documents, Iterable):
        raise TypeError(f"documents={shown(documents)} must be strings or lists of words")
    documents = list(documents)
    for document in documents:
        if not isinstance(document, str):
            strings("documents", document)
    return documents


def _known(words, index):
    return [id for id in map(index.get, words) if id is not None]


def _encoded(corpus, vocabulary, names, num_threads):
    """Return the different names, and the ids and document rows of all positions, int32 each."""
    given = None if names is None else strings("documents", names)
    ids, numbers, count = document_ids(corpus, vocabulary.words, num_threads)
    if given is None:
        return list(map(str, range(count))), ids, numbers
    if len(given) != count:
        raise ValueError(f"documents has {len(given)} names for {count} documents")
    rows_of = {}
    rows = [rows_of.setdefault(name, len(rows_of)) for name in given]
    return list(rows_of), ids, np.array(rows, np.int32)[numbers]
