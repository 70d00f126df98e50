"""The C++ kernels on NumPy arrays, without the GIL.

Unless in deterministic mode, threads update rows without locks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from fastkeras import _core
from fastkeras.word2vec.training.settings import LOSSES, OBJECTIVES

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.word2vec.training.settings import Tables

SUBWORDS = DOCUMENTS = BOTH_LOSSES = True  # which not every engine takes

# `Tables` are checked once, not for every slice
_checked: WeakKeyDictionary[Tables, Any] = WeakKeyDictionary()


def train(
    ids, begin, end, inputs, outputs, tables, settings, key, schedule,
    num_threads=1, deterministic=False, documents=None,
):  # fmt: skip
    checked = _checked.get(tables)
    if checked is None:
        checked = _checked[tables] = _core.Word2VecTables(*tables)
    return _core.word2vec_train(
        ids,
        begin,
        end,
        inputs,
        outputs,
        checked,
        objective=OBJECTIVES.index(settings.objective),
        loss=LOSSES.index(settings.loss),
        shared_negatives=settings.shared_negatives,
        exact_cbow=settings.exact_cbow,
        exact_subwords=settings.exact_subwords,
        shrink_windows=settings.shrink_windows,
        window=settings.window,
        negative=settings.negative,
        key=key,
        learning_rate=schedule.learning_rate,
        learning_rate_slope=schedule.slope,
        num_threads=num_threads,
        deterministic=deterministic,
        documents=documents and documents.rows,
        document_vectors=documents and documents.vectors,
        documents_alone=settings.documents_alone,
        frozen=settings.frozen,
    )
