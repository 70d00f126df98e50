"""Training on more than one machine: workers train parts of the text, and average often.

docs/word2vec.md has the rule, what a round costs, and when more machines are worth it.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

from fastkeras import _engines
from fastkeras.word2vec.arguments import integer, number

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.word2vec.training.trainer import Word2Vec

__all__ = ["fit_with_ray", "resume_with_ray"]

ROUNDS = 100  # of a training, unless the user says how many words are between two
MOST = 8  # times the learning rate of one machine, at most


def fit_with_ray(
    model: Word2Vec,
    corpus: Any,
    *,
    num_workers: int,
    words_between: int | None = None,
    rate_factor: float | None = None,
    **options: Any,
) -> Word2Vec:
    """Train a model as `Word2Vec.fit` does, on workers of Ray.

    Each worker trains its part of a round with the engine of the model; then both matrices are
    averaged, each row by how often the workers have updated it (Ji et al. 2016, arXiv 1611.06172).
    What is drawn is the same as on one machine; one worker gives its bits, whatever
    `words_between`.

    The corpus is read and encoded here, and workers get 4 bytes a word. A worker that is killed is
    replaced, and its part of the round is trained again from the last average. Here, too, the model
    is always that of the last average: so callbacks, checkpoints, Ctrl-C and errors find a model
    that can be used, saved and resumed, on any number of workers or on one machine.

    Args:
        model: a `Word2Vec` with the arguments of the training. Its `num_threads` are those of each
            worker; 0 shares out the processors of the cluster.
        corpus: as in `Word2Vec.fit`.
        num_workers: parts of a round, each trained by one task of Ray.
        words_between: words that each worker trains between two averages. The more, the cheaper and
            the worse; None makes 100 rounds of the whole training. It is rounded up to a multiple
            of 2,048.
        rate_factor: by what the workers' learning rate is multiplied, since an average moves a row
            as far as one worker does. None takes `num_workers`, or its square root for CBOW with
            the exact gradient, whose rate is large already; at most 8. One worker keeps its rate.
        **options: `vocabulary`, `progress`, `callbacks`, `epoch_callbacks`, `checkpoint` and
            `checkpoint_minutes` of `Word2Vec.fit`; callbacks are called after a round.

    Returns:
        The model.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        TypeError, ValueError: an argument is not allowed, or no machine has so many processors.
        RuntimeError: a round lost its workers five times; `resume_with_ray` goes on from the last
            average.

    Example:
        >>> from fastkeras.word2vec import Word2Vec
        >>> from fastkeras.word2vec.distributed import fit_with_ray
        >>> model = fit_with_ray(Word2Vec(), "news/*.gz", num_workers=8)  # doctest: +SKIP
        >>> model.vectors.most_similar("bank")  # doctest: +SKIP
    """
    with _workers_of(model, num_workers, words_between, rate_factor):
        return model.fit(corpus, **options)


def resume_with_ray(
    model: Word2Vec,
    corpus: Any,
    *,
    num_workers: int,
    words_between: int | None = None,
    rate_factor: float | None = None,
    **options: Any,
) -> Word2Vec:
    """Go on where a training stopped, as `Word2Vec.resume` does, on workers of Ray.

    Args:
        model: a `Word2Vec` that has stopped, or that was loaded from a checkpoint, of a training on
            any number of workers.
        corpus, num_workers, words_between, rate_factor: as in `fit_with_ray`.
        **options: as in `Word2Vec.resume`.

    Returns:
        The model, unchanged if nothing was left to do.

    Raises:
        ModuleNotFoundError, TypeError, ValueError, RuntimeError: as in `fit_with_ray` and
            `Word2Vec.resume`.

    Example:
        >>> from fastkeras.word2vec import Word2Vec
        >>> from fastkeras.word2vec.distributed import resume_with_ray
        >>> model = Word2Vec.load("news.npz")  # doctest: +SKIP
        >>> model = resume_with_ray(model, "news/*.gz", num_workers=8)  # doctest: +SKIP
    """
    with _workers_of(model, num_workers, words_between, rate_factor):
        return model.resume(corpus, **options)


@contextmanager
def _workers_of(model, num_workers, words_between, rate_factor):
    """Let Ray's workers train the model meanwhile."""
    from fastkeras.word2vec.training.trainer import Word2Vec

    if not isinstance(model, Word2Vec):
        raise TypeError(f"model={model!r} must be a fastkeras.word2vec.Word2Vec")
    num_workers = integer("num_workers", num_workers, 1)
    if words_between is not None:
        words_between = integer("words_between", words_between, 1)
    if rate_factor is None:
        is_exact = model._settings.objective == "cbow" and model._settings.exact_cbow
        rate_factor = min(math.sqrt(num_workers) if is_exact else num_workers, MOST)
    rate_factor = number("rate_factor", rate_factor, 1)
    ray = _ray()
    own = model._engine

    def training(ids, *of_engine):
        from fastkeras.word2vec.distributed.on_ray import Training

        between = words_between
        if between is None:
            between = math.ceil(len(ids) * model._state["epochs"] / ROUNDS / num_workers)
        of_workers = _engines.name_of(own), num_workers, between, rate_factor
        return Training(ray, *of_workers, ids, *of_engine)

    model._engine = SimpleNamespace(__name__=own.__name__, Training=training)
    try:
        yield
    finally:
        model._engine = own


def _ray():
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "training on several machines needs Ray: pip install 'fastkeras[ray]'"
        ) from error
    if not ray.is_initialized():
        ray.init()
    return ray
