"""Vectors with an index by which the nearest ones are found without a look at all others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras._files import replacing
from fastkeras.word2vec.arguments import file_path, instance, integer
from fastkeras.word2vec.vectors.queries import checked_rows
from fastkeras.word2vec.vectors.search import unit_rows
from fastkeras.word2vec.vectors.vectors import Vectors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from fastkeras.typing import ArrayLike, FilePath

ROWS = 1 << 16  # added at a time
COMPARED = 16  # rows of an index that is read
FARTHEST = 0.15  # from such a row to the vector: those in 8 bits are nearer


class ApproximateVectors(Vectors):
    """`Vectors` whose `nearest`, `most_similar` and `analogy` search a graph, by FAISS.

    The graph (Malkov & Yashunin 2018, Hierarchical Navigable Small World, arXiv 1603.09320) finds
    most of the nearest ones, and the cosines it gives are right. Other questions, and searches with
    `restrict_vocab`, look at all vectors as always. The graph has a copy of the vectors, of length
    1 and 32 bits. Of `SubwordVectors` it has the words, not the n-grams: unknown words have none.

    Args:
        vectors: `Vectors`; their matrix is kept, not copied.
        neighbors: of a vector in the graph; more take more memory and find more.
        search: how many vectors a search keeps in view; more take longer and find more.
        index: the path of a graph that `save_index` has written, instead of a new one.

    Raises:
        ImportError: FAISS is not installed.
        ValueError: an argument is out of range, a vector is not finite, or the index is of another
            kind or of other vectors.

    Example:
        >>> vectors = ApproximateVectors(Vectors(["cat", "dog"], np.eye(2)))  # doctest: +SKIP
        >>> vectors.most_similar("cat")  # doctest: +SKIP
        [('dog', 0.0)]
    """

    def __init__(
        self,
        vectors: Vectors,
        neighbors: int = 32,
        search: int = 64,
        index: FilePath | None = None,
    ) -> None:
        instance("vectors", vectors, Vectors)
        super().__init__(vectors.words, vectors.matrix, vectors.counts)
        faiss = _faiss()
        neighbors = integer("neighbors", neighbors, 2, 1024)
        search = integer("search", search, 1)
        if index is None:
            _ = self.norms  # which raises if one is not finite
            self.graph = faiss.IndexHNSWFlat(self.size, neighbors, faiss.METRIC_INNER_PRODUCT)
            for begin in range(0, len(self), ROWS):
                rows = self.matrix[begin : begin + ROWS].astype(np.float32)
                self.graph.add(np.ascontiguousarray(unit_rows(rows)))
        else:
            self.graph = self._read(faiss, index)
        self.graph.hnsw.efSearch = search

    def _read(self, faiss, index):
        """Return the graph of a file, if it is one of these vectors."""
        place = f"index={str(index)!r}"
        try:
            graph = faiss.read_index(str(file_path("index", index)))
        except RuntimeError as error:
            raise ValueError(f"{place} is no index of FAISS: {error}") from None
        is_graph = isinstance(graph, faiss.IndexHNSWFlat)
        if not (is_graph and graph.metric_type == faiss.METRIC_INNER_PRODUCT):
            raise ValueError(
                f"{place} is a {type(graph).__name__} of FAISS; it must be a graph of inner "
                "products, as save_index writes it"
            )
        if (graph.ntotal, graph.d) != (len(self), self.size):
            raise ValueError(
                f"{place} has {graph.ntotal} vectors of size {graph.d}, not {len(self)} of "
                f"{self.size}"
            )
        for row in np.linspace(0, len(self) - 1, min(len(self), COMPARED)).astype(int).tolist():
            unit = unit_rows(np.asarray(self.matrix[row], np.float32))
            if not np.linalg.norm(graph.reconstruct(row) - unit) < FARTHEST:
                raise ValueError(
                    f"{place} is of other vectors: that of {self.words[row]!r} (row {row}) is "
                    "another there"
                )
        return graph

    def nearest(
        self,
        queries: ArrayLike,
        topn: int = 10,
        excluded: Sequence[Sequence[int]] | None = None,
        restrict_vocab: int | None = None,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the rows with the highest cosines, most of them; see `Vectors.nearest`."""
        integer("topn", topn, 1, None)
        if restrict_vocab is not None or not len(self):
            return super().nearest(queries, topn, excluded, restrict_vocab)
        unit = unit_rows(self._checked(queries)).astype(np.float32)
        excluded = checked_rows(excluded, len(unit))
        without = [set() for _ in unit] if excluded is None else [set(rows) for rows in excluded]
        wanted = min(topn, len(self))
        count = min(wanted + max(map(len, without), default=0), len(self))
        cosines, rows = self.graph.search(np.ascontiguousarray(unit), count)
        best = np.full((len(unit), wanted), -np.inf, np.float32)
        best_rows = np.zeros(best.shape, np.int64)
        for query, left_out in enumerate(without):
            kept = [i for i, row in enumerate(rows[query]) if row >= 0 and row not in left_out]
            kept = kept[:wanted]
            best[query, : len(kept)] = cosines[query, kept]
            best_rows[query, : len(kept)] = rows[query, kept]
        return best_rows, best

    def add_vectors(
        self,
        words: str | Sequence[str],
        vectors: ArrayLike,
        counts: ArrayLike | None = None,
        replace: bool = False,
    ) -> None:
        """Refuse it with ValueError, since the index is of the vectors as they are."""
        raise ValueError("the index is of the vectors as they are: make another of more")

    def save_index(self, path: FilePath) -> None:
        """Write the graph, as FAISS does; the vectors themselves are written by `save`."""
        faiss = _faiss()
        with replacing(path) as file:
            faiss.write_index(self.graph, faiss.PyCallbackIOWriter(file.write))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ImportError("ApproximateVectors search by FAISS: pip install faiss-cpu") from None
    return faiss
