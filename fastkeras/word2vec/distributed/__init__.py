"""Training on more than one machine: workers train parts of the text, and meet often.

docs/word2vec.md has the rule, what a round costs, and when more machines are worth it.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

from fastkeras import _engines
from fastkeras.word2vec.arguments import integer, number
from fastkeras.word2vec.distributed import on_ray, on_spark
from fastkeras.word2vec.training.arguments import default_rate

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.word2vec.training.trainer import Word2Vec

__all__ = ["fit_with_ray", "fit_with_spark", "resume_with_ray", "resume_with_spark"]

ROUNDS = 100  # of a training, unless the user says how many words are between two
MOST = 8  # times the learning rate of one machine, at most
WAY = 0.01  # of a row in one update at the default learning rate; see `averages.combined`


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

    Each worker trains its part of a round with the engine of the model, at a larger learning rate;
    then both matrices are averaged, and what the average would take from rare words is made good
    (docs/word2vec.md). What is drawn is the same as on one machine; one worker gives its bits,
    whatever `words_between`.

    The corpus is read and encoded here, and workers get 4 bytes a word. A worker that is killed is
    replaced, and its part of the round is trained again. The model here is always that after the
    last round: so callbacks, checkpoints, Ctrl-C and errors find a model that can be used, saved
    and resumed, on any number of workers or on one machine.

    Args:
        model: a `Word2Vec` with the arguments of the training. Its `num_threads` are those of each
            worker; 0 shares out the processors of the cluster.
        corpus: as in `Word2Vec.fit`.
        num_workers: parts of a round, each trained by one task of Ray.
        words_between: words that each worker trains in a round. The more, the cheaper and the
            worse; None makes 100 rounds of the whole training. It is rounded up to a multiple of
            2,048.
        rate_factor: by what the workers' learning rate is multiplied, since an average moves a row
            as far as one worker does. None takes N = `num_workers`, at most 8; for CBOW with the
            exact gradient, whose rate is near the largest that converges, √(N − 1). One worker
            keeps its rate.
        **options: `vocabulary`, `progress`, `callbacks`, `epoch_callbacks`, `checkpoint` and
            `checkpoint_minutes` of `Word2Vec.fit`; callbacks are called after a round.

    Returns:
        The model.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ImportError: a worker lacks the engine of the model.
        TypeError, ValueError: an argument is not allowed, no machine has so many processors, or a
            worker has another version of fastkeras.
        FloatingPointError: the loss is not finite: the learning rate, or `rate_factor`, is too
            large.
        RuntimeError: a round lost its workers five times; `resume_with_ray` goes on from the round
            before.

    Example:
        >>> from fastkeras.word2vec import Word2Vec
        >>> from fastkeras.word2vec.distributed import fit_with_ray
        >>> model = fit_with_ray(Word2Vec(), "news/*.gz", num_workers=8)  # doctest: +SKIP
        >>> model.vectors.most_similar("bank")  # doctest: +SKIP
    """
    with _workers_of(model, on_ray, num_workers, words_between, rate_factor):
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
        ModuleNotFoundError, TypeError, ValueError, FloatingPointError, RuntimeError: as in
            `fit_with_ray` and `Word2Vec.resume`.

    Example:
        >>> from fastkeras.word2vec import Word2Vec
        >>> from fastkeras.word2vec.distributed import resume_with_ray
        >>> model = Word2Vec.load("news.npz")  # doctest: +SKIP
        >>> model = resume_with_ray(model, "news/*.gz", num_workers=8)  # doctest: +SKIP
    """
    with _workers_of(model, on_ray, num_workers, words_between, rate_factor):
        return model.resume(corpus, **options)


def fit_with_spark(
    model: Word2Vec,
    corpus: Any,
    *,
    num_workers: int,
    words_between: int | None = None,
    rate_factor: float | None = None,
    **options: Any,
) -> Word2Vec:
    """Train a model as `Word2Vec.fit` does, on workers of Spark.

    It does what `fit_with_ray` does, bit for bit: a round is a job of Spark with one task for each
    part. They run in the active session, or else in a new one with Spark's own settings. The driver
    has the model and the encoded corpus; `spark.driver.maxResultSize` has to be larger than both
    matrices.

    Args:
        model: a `Word2Vec` with the arguments of the training. Its `num_threads` are those of each
            task, at most `spark.task.cpus`; 0 takes all of these.
        corpus: as in `Word2Vec.fit`; for a data frame of Spark,
            `Corpus(frame, column="text")`.
        num_workers: parts of a round, each trained by one task.
        words_between, rate_factor: as in `fit_with_ray`.
        **options: as in `fit_with_ray`.

    Returns:
        The model.

    Raises:
        ModuleNotFoundError: PySpark is not installed.
        ImportError: a worker lacks the engine of the model.
        TypeError, ValueError: an argument is not allowed, a setting of Spark is too small, or a
            worker has another version of fastkeras.
        FloatingPointError: as in `fit_with_ray`.
        RuntimeError: Spark gave a round up five times; `resume_with_spark` goes on from the round
            before.

    Example:
        >>> from fastkeras.word2vec import Word2Vec
        >>> from fastkeras.word2vec.corpus import Corpus
        >>> from fastkeras.word2vec.distributed import fit_with_spark
        >>> news = Corpus(spark.read.text("news"), column="value")  # doctest: +SKIP
        >>> model = fit_with_spark(Word2Vec(), news, num_workers=8)  # doctest: +SKIP
        >>> model.vectors.most_similar("bank")  # doctest: +SKIP
    """
    with _workers_of(model, on_spark, num_workers, words_between, rate_factor):
        return model.fit(corpus, **options)


def resume_with_spark(
    model: Word2Vec,
    corpus: Any,
    *,
    num_workers: int,
    words_between: int | None = None,
    rate_factor: float | None = None,
    **options: Any,
) -> Word2Vec:
    """Go on where a training stopped, as `Word2Vec.resume` does, on workers of Spark.

    Args:
        model: a `Word2Vec` that has stopped, or that was loaded from a checkpoint, of a training on
            any number of workers.
        corpus, num_workers, words_between, rate_factor: as in `fit_with_spark`.
        **options: as in `Word2Vec.resume`.

    Returns:
        The model, unchanged if nothing was left to do.

    Raises:
        ModuleNotFoundError, TypeError, ValueError, FloatingPointError, RuntimeError: as in
            `fit_with_spark` and `Word2Vec.resume`.

    Example:
        >>> from fastkeras.word2vec import Word2Vec
        >>> from fastkeras.word2vec.distributed import resume_with_spark
        >>> model = Word2Vec.load("news.npz")  # doctest: +SKIP
        >>> model = resume_with_spark(model, "news/*.gz", num_workers=8)  # doctest: +SKIP
    """
    with _workers_of(model, on_spark, num_workers, words_between, rate_factor):
        return model.resume(corpus, **options)


@contextmanager
def _workers_of(model, where, num_workers, words_between, rate_factor):
    """Let the workers of a module here train the model meanwhile."""
    from fastkeras.word2vec.training.trainer import Word2Vec

    if not isinstance(model, Word2Vec):
        raise TypeError(f"model={model!r} must be a fastkeras.word2vec.Word2Vec")
    num_workers = integer("num_workers", num_workers, 1)
    if words_between is not None:
        words_between = integer("words_between", words_between, 1)
    if rate_factor is None:
        is_exact = model._settings.objective == "cbow" and model._settings.exact_cbow
        rate_factor = min(num_workers, MOST)
        if is_exact:  # at 8 times its rate it diverges
            rate_factor = max(math.sqrt(rate_factor - 1), 1)
    rate_factor = number("rate_factor", rate_factor, 1)
    workers = where.Workers()
    own = model._engine

    def training(ids, *of_engine):
        from fastkeras.word2vec.distributed.training import Training

        between = words_between
        if between is None:
            between = math.ceil(len(ids) * model._state["epochs"] / ROUNDS / num_workers)
        way = WAY / default_rate(model.config)
        of_workers = workers, _engines.name_of(own), rate_factor, way, num_workers, between
        return Training(*of_workers, ids, *of_engine)

    model._engine = SimpleNamespace(__name__=own.__name__, Training=training)
    try:
        yield
    except FloatingPointError as error:
        times = min(rate_factor, num_workers)
        if times == 1:
            raise
        raise FloatingPointError(f"{error}, or else rate_factor={times:g} for it") from error
    finally:
        model._engine = own
        workers.close()
