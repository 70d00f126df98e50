"""Maximum-entropy Markov models: the chain of a CRF, normalised step by step instead of as a whole.

With the scores of a CRF, start and end scores added to the first and the last emission, the
log-probabilities from left to right and from right to left are
    log p→(y) = log softmax(x_1)[y_1] + Σ_t log softmax(x_t + A[y_{t−1}, ·])[y_t]
    log p←(y) = log softmax(x_n)[y_n] + Σ_t log softmax(x_{t−1} + A[·, y_t])[y_{t−1}]
and the bidirectional model trains their mean. No step depends on another, so the gradient needs no
recursion, and only O(steps · num_tags) time besides computing the scores. Decoding is that of a
CRF: the mean is the score of a chain with other emissions (`locally_normalized`), on which every
function of `fastkeras.crf` works. docs/crf.md has the derivation.

Sources: McCallum, Freitag & Pereira, 2000, "Maximum entropy Markov models for information
extraction and segmentation"; both directions and the low rank: Su, 2020,
https://kexue.fm/archives/7213.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras._arrays import array_functions, dtype_of, family_of
from fastkeras.crf import paths
from fastkeras.crf.arguments import chain_of, like, tags_of
from fastkeras.crf.chain import LowRank, check_values
from fastkeras.training.arguments import flag

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import ArrayLike, Tensor


__all__ = ["locally_normalized", "log_likelihood", "viterbi"]

FLOOR, IMPOSSIBLE = -1e30, -1e29  # as in _engines/keras/recursions.py
NEAR = {"float32": 60.0, "float64": 600.0}  # nats between transitions


def log_likelihood(
    emissions: ArrayLike,
    tags: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    bidirectional: bool = True,
) -> Tensor:
    """Mean of the log-probabilities of a tag sequence from left to right and from right to left.

    Args:
        emissions, lengths, mask, start_transitions, end_transitions: as in `crf.log_partition`.
        transitions: float, shape (num_tags, num_tags), or for very many tags a `LowRank`, whose
            product is never formed: O(steps · num_tags · rank) time.
        tags: as in `crf.sequence_score`.
        bidirectional: False for the log-probability from left to right alone.

    Returns:
        Shape (batch,), dtype of `emissions`, never above 0; −inf, with gradients of zero, for an
        impossible sequence; 0 where no step is valid. Differentiable with respect to all scores.

    Raises:
        ValueError: as `crf.sequence_score`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import memm
        >>> p = memm.log_likelihood(np.zeros((1, 2, 3)), np.array([[0, 2]]), np.zeros((3, 3)))
        >>> float(np.exp(p[0]).round(6))  # one of 3² equal sequences
        0.111111

    Source: McCallum, Freitag & Pereira, 2000; Su, 2020.
    """
    chain = chain_of(
        emissions,
        transitions,
        lengths,
        mask,
        start_transitions,
        end_transitions,
        may_vary=False,
        keep_factors=True,
    )
    return like(log_likelihood_of(chain, tags, bidirectional), emissions)


def log_likelihood_of(chain, tags, bidirectional=True):
    """`log_likelihood` of a chain, whose transitions may be a `LowRank`; in its dtype."""
    flag("bidirectional", bidirectional)
    array = array_functions(chain.emissions)
    steps = _Compact(chain)
    in_range, tags = _clipped(chain, tags_of(chain, tags))
    tags = steps.compacted(tags)
    before = array.concatenate([tags[:, :1], tags[:, :-1]], axis=1)
    after = array.concatenate([tags[:, 1:], tags[:, -1:]], axis=1)
    value, possible = 0, True
    rules = ((1, steps.first, before), (-1, steps.last, after))
    for direction, begins, neighbour in rules if bidirectional else rules[:1]:
        rows = _rows(chain.transitions, neighbour, direction)
        scores = steps.x + array.where(begins[..., None], 0, rows)
        score = array.take_along_axis(scores, tags[..., None], axis=-1)[..., 0]
        log_p = score - _log_sum_exp(array, scores)
        possible = possible & array.all(~((score <= IMPOSSIBLE) & steps.valid), axis=1)
        value = value + array.sum(array.where(steps.valid, log_p, 0), axis=1)
    value = value / 2 if bidirectional else value
    value = array.where(possible | (value != value), value, -np.inf)  # NaN stays
    return array.where(in_range, value, np.nan)


def viterbi(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    bidirectional: bool = True,
    engine: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The tag sequence with the largest `log_likelihood`, and that value.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, bidirectional: as
            in `log_likelihood`.
        engine: as in `crf.viterbi`.

    Returns:
        tags and score, as from `crf.viterbi`.

    Raises:
        ValueError, ImportError: as `crf.viterbi`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import memm
        >>> tags, score = memm.viterbi(np.array([[[2.0, 0.0], [0.0, 0.0]]]), np.eye(2))
        >>> tags, score.round(6)
        (array([[0, 0]], dtype=int32), array([-0.590962]))

    Source: McCallum, Freitag & Pereira, 2000; Su, 2020.
    """
    scores = (transitions, lengths)
    boundaries: dict[str, Any] = {
        "mask": mask,
        "start_transitions": start_transitions,
        "end_transitions": end_transitions,
    }
    x = locally_normalized(emissions, *scores, **boundaries, bidirectional=bidirectional)
    return paths.viterbi(x, *scores, **boundaries, engine=engine)


def locally_normalized(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    bidirectional: bool = True,
) -> Tensor:
    """Emissions with which the score of a CRF is the `log_likelihood` of this model.

    Transitions, start and end stay the same. From left to right alone, log Z of that CRF is 0. With
    both directions, the model is the geometric mean of two distributions, and log Z is at most 0:
    marginals, samples and the k best are those of that mean, normalised.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, bidirectional: as
            in `log_likelihood`.

    Returns:
        Shape (batch, steps, num_tags), dtype of `emissions`; −inf for a tag after which, or before
        which, no tag is possible; anything at steps that are not valid. O(steps · num_tags²) time.

    Raises:
        ValueError: as `crf.log_partition`.

    Example:
        >>> import numpy as np
        >>> from fastkeras import crf
        >>> transitions = np.array([[3.0, 0.0], [-1.0, 2.0]])
        >>> x = np.array([[[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]])
        >>> x = crf.memm.locally_normalized(x, transitions, bidirectional=False)
        >>> float(abs(crf.log_partition(x, transitions)[0]).round(6))
        0.0

    Source: docs/crf.md.
    """
    chain = chain_of(
        emissions,
        transitions,
        lengths,
        mask,
        start_transitions,
        end_transitions,
        may_vary=False,
    )
    return like(normalized(chain, bidirectional).emissions, emissions)


def normalized(chain, bidirectional=True):
    """The chain with the emissions of `locally_normalized`."""
    flag("bidirectional", bidirectional)
    array, transitions = array_functions(chain.emissions), chain.transitions
    steps = _Compact(chain)
    alone = _log_sum_exp(array, steps.x)[..., None]
    forwards = array.concatenate([steps.x[:, 1:], steps.x[:, -1:]], axis=1)  # of the step after
    normaliser = array.where(steps.last[..., None], 0, _sums(array, forwards, transitions))
    normaliser = normaliser + array.where(steps.first[..., None], alone, 0)
    if bidirectional:
        backwards = array.concatenate([steps.x[:, :1], steps.x[:, :-1]], axis=1)
        into = _sums(array, backwards, array.transpose(transitions))
        normaliser = normaliser + array.where(steps.first[..., None], 0, into)
        normaliser = (normaliser + array.where(steps.last[..., None], alone, 0)) / 2
    normaliser = steps.expanded(normaliser)
    impossible = normaliser <= IMPOSSIBLE / 2
    emissions = chain.emissions - array.where(impossible, 0, normaliser)
    return chain._replace(emissions=array.where(impossible, -np.inf, emissions))


class _Compact:
    """The valid steps of each sequence, moved together to the first columns."""

    def __init__(self, chain):
        self.array = array = array_functions(chain.emissions)
        x, lengths, mask = chain.emissions, chain.lengths, chain.mask
        t = array.arange(array.shape(x)[1], dtype="int32")
        self.order = None
        if mask is not None:
            self.order = array.argsort(array.where(mask, t, t + array.shape(x)[1]), axis=1)
            self.rank = array.cumsum(array.cast(mask, "int32"), axis=1)
            lengths = self.rank[:, -1]
        lengths = lengths[:, None]
        self.valid, self.first, self.last = t < lengths, (t == 0) & (t < lengths), t == lengths - 1
        x = array.where(self.valid[..., None], self.compacted(x), 0)
        start = _floored(array, chain.start_transitions)
        x = _floored(array, x) + array.where(self.first[..., None], start, 0)
        end = _floored(array, chain.end_transitions)
        self.x = x + array.where(self.last[..., None], end, 0)

    def compacted(self, rows):
        """Rows in the caller's order of steps, with the valid ones moved to the front."""
        if self.order is None:
            return rows
        order = self.order if len(rows.shape) == 2 else self.order[..., None]
        return self.array.take_along_axis(rows, order, axis=1)

    def expanded(self, rows):
        """The reverse of `compacted`; anything at steps that are not valid."""
        if self.order is None:
            return rows
        rank = self.rank - 1
        at = self.array.where(rank < 0, 0, rank)
        return self.array.take_along_axis(rows, at[..., None], axis=1)


def _rows(transitions, tags, direction):
    """The scores of all tags next to the given ones, (batch, steps, num_tags)."""
    array = array_functions(tags)
    if isinstance(transitions, LowRank):
        here, there = transitions if direction == 1 else reversed(transitions)
        return array.matmul(array.take(here, tags, axis=0), array.transpose(there))
    rows = transitions if direction == 1 else array.transpose(transitions)
    return _floored(array, array.take(rows, tags, axis=0))


def _sums(array, x, transitions):
    """Log Σ_j exp(x[b, t, j] + A[i, j]), (batch, steps, num_tags)."""
    transitions = _floored(array, transitions)
    peak = array.max(transitions)

    def by_a_product():
        largest = array.max(x, axis=-1, keepdims=True)
        pairs = array.transpose(array.exp(transitions - peak))
        return array.log(array.matmul(array.exp(x - largest), pairs)) + largest + peak

    def step_by_step():
        def of_step(rows):
            return _log_sum_exp(array, rows[:, None, :] + transitions)

        by_steps = array.transpose(x, (1, 0, 2))
        if family_of(x) == "tensorflow":
            from fastkeras.crf._engines.keras.recursions import scan

            like = by_steps[0]
            _, (sums,) = scan(
                lambda carry, inputs: (carry, (of_step(*inputs),)),
                like[0, 0] * 0,
                (by_steps,),
                (like,),
            )
        else:
            sums = array.map(of_step, by_steps)
        return array.transpose(sums, (1, 0, 2))

    near = peak - array.min(transitions) <= NEAR[dtype_of(x)]  # then no sum underflows
    return array.cond(near, by_a_product, step_by_step)


def _clipped(chain, tags):
    """Bool (batch,), whether all tags are in range; and the tags, clipped, 0 at invalid steps."""
    array = array_functions(tags)
    if chain.family == "numpy":
        return np.ones(len(tags), bool), tags
    check_values(chain, tags)
    valid = chain.valid_steps()
    clipped = array.where(valid, array.clip(tags, 0, chain.emissions.shape[2] - 1), 0)
    return array.all((clipped == tags) | ~valid, axis=1), clipped


def _floored(array, scores):
    return array.where(scores < FLOOR, FLOOR, scores)


def _log_sum_exp(array, scores):
    peak = array.stop_gradient(array.max(scores, axis=-1, keepdims=True))
    return array.log(array.sum(array.exp(scores - peak), axis=-1)) + peak[..., 0]
