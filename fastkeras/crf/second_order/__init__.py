"""Second-order chains: the score of a tag depends on the two tags before it.

A tag sequence y of n valid steps scores
    s[y_1] + Σ_t x[t, y_t] + Σ_{t≥2} A[y_{t−1}, y_t] + Σ_{t≥3} C[y_{t−2}, y_{t−1}, y_t] + f[y_n]
with the scores of a linear chain, and C for the triples. It is a linear chain over pairs of tags;
`constraints` leave out the pairs that are not allowed, so that a step costs as much as there are
allowed triples, not num_tags³ or, in a chain over all pairs, num_tags⁴.

Source: Cuong, Ye, Lee & Chieu, 2014, "Conditional random field with high-order dependencies for
sequence labeling and segmentation"; for the pairs He, 1988, "Extended Viterbi algorithm for second
order hidden Markov process".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkeras._engines import engine_of_family
from fastkeras.crf.arguments import like, tags_of
from fastkeras.crf.second_order.arguments import chain_and_triples
from fastkeras.crf.second_order.pairs import PairChain, pair_chain

if TYPE_CHECKING:
    from fastkeras.crf.chain import LowRank
    from fastkeras.crf.constraints import Constraints
    from fastkeras.typing import ArrayLike, Tensor


__all__ = [
    "PairChain",
    "log_likelihood",
    "log_partition",
    "marginals",
    "pair_chain",
    "sequence_score",
    "viterbi",
]


def log_partition(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    triples: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    constraints: Constraints | None = None,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Log-sum-exp of the scores of all tag sequences.

    Args:
        emissions, lengths, mask, start_transitions, end_transitions: as in
            `fastkeras.crf.log_partition`.
        transitions: float, shape (num_tags, num_tags), or a `LowRank`.
        triples: float, shape (num_tags, num_tags, num_tags); [h, i, j] scores h → i → j, in
            addition to the transitions; −inf forbids it.
        constraints: what `fastkeras.crf.constraints.allowed` returns; transitions, first and last
            tags that are not allowed have probability 0, and cost nothing. None: all are allowed.
        engine: a name in `fastkeras.engines("crf.second_order")`, or None for the fastest that is
            ready and takes the array.

    Returns:
        log Z, shape (batch,), dtype of `emissions`; −inf where no sequence is possible, 0 where no
        step is valid, NaN where a score that the sequence uses is NaN or +inf. Differentiable by
        the tensor engines, at any order by `keras`.

    Raises:
        ValueError: a shape, dtype or value is out of range.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import second_order
        >>> triples = np.zeros((2, 2, 2))
        >>> triples[1, 1, 1] = -np.inf
        >>> log_z = second_order.log_partition(np.zeros((1, 3, 2)), np.zeros((2, 2)), triples)
        >>> float(np.exp(log_z[0]).round(6))  # 2³ sequences, but for 1 1 1
        7.0

    Source: as the module.
    """
    ends = start_transitions, end_transitions
    functions, chain, *more = _checked(
        emissions, transitions, triples, lengths, constraints, mask, ends, engine
    )
    return like(functions.log_partition(chain, *more), emissions)


def sequence_score(
    emissions: ArrayLike,
    tags: ArrayLike,
    transitions: ArrayLike | LowRank,
    triples: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    constraints: Constraints | None = None,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Score of one given tag sequence.

    Args:
        emissions, transitions, triples, lengths, constraints, mask, start_transitions,
            end_transitions, engine: as in `log_partition`.
        tags: as in `fastkeras.crf.sequence_score`.

    Returns:
        The score, shape (batch,), dtype of `emissions`.

    Raises:
        ValueError: as `log_partition`, and for a tag out of range at a valid step. In a graph,
            which cannot raise, the result of that sequence is NaN instead.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import second_order
        >>> triples = np.arange(8.0).reshape(2, 2, 2)
        >>> zeros = np.zeros((1, 3, 2))
        >>> second_order.sequence_score(zeros, np.array([[1, 0, 1]]), np.zeros((2, 2)), triples)
        array([5.])

    Source: as the module.
    """
    ends = start_transitions, end_transitions
    functions, chain, *more = _checked(
        emissions, transitions, triples, lengths, constraints, mask, ends, engine
    )
    return like(functions.sequence_score(chain, tags_of(chain, tags), *more), emissions)


def log_likelihood(
    emissions: ArrayLike,
    tags: ArrayLike,
    transitions: ArrayLike | LowRank,
    triples: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    constraints: Constraints | None = None,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Logarithm of the probability of one given tag sequence; its negative mean is the loss.

    Args:
        emissions, transitions, triples, lengths, constraints, mask, start_transitions,
            end_transitions, engine: as in `log_partition`.
        tags: as in `fastkeras.crf.sequence_score`.

    Returns:
        log p, shape (batch,), dtype of `emissions`, never above 0; −inf, with gradients of zero,
        for an impossible sequence; 0 where no step is valid. Differentiable as `log_partition`.

    Raises:
        ValueError, ImportError: as `sequence_score`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import second_order
        >>> zeros, tags = (np.zeros((2, 2)), np.zeros((2, 2, 2))), np.array([[1, 0, 1]])
        >>> p = second_order.log_likelihood(np.zeros((1, 3, 2)), tags, *zeros)
        >>> float(np.exp(p[0]).round(6))  # one of 2³ equal sequences
        0.125

    Source: as the module.
    """
    ends = start_transitions, end_transitions
    functions, chain, *more = _checked(
        emissions, transitions, triples, lengths, constraints, mask, ends, engine
    )
    return like(functions.log_likelihood(chain, tags_of(chain, tags), *more), emissions)


def marginals(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    triples: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    constraints: Constraints | None = None,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Posterior probability of each tag at each step, and expected number of each transition.

    Args:
        emissions, transitions, triples, lengths, constraints, mask, start_transitions,
            end_transitions, engine: as in `log_partition`.

    Returns:
        The probabilities, shape (batch, steps, num_tags): they sum to 1 at valid steps, and are 0
        elsewhere. The counts, shape (batch, num_tags, num_tags): they sum to the number of valid
        steps minus one. Both are 0 where no sequence is possible.

    Raises:
        ValueError, ImportError: as `log_partition`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import second_order
        >>> zeros = np.zeros((1, 1, 4)), np.zeros((4, 4)), np.zeros((4, 4, 4))
        >>> second_order.marginals(*zeros)[0]
        array([[[0.25, 0.25, 0.25, 0.25]]])

    Source: Rabiner, 1989, "A tutorial on hidden Markov models", section III.
    """
    ends = start_transitions, end_transitions
    functions, chain, *more = _checked(
        emissions, transitions, triples, lengths, constraints, mask, ends, engine
    )
    unary, counts = functions.marginals(chain, *more)
    return like(unary, emissions), like(counts, emissions)


def viterbi(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    triples: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    constraints: Constraints | None = None,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The best tag sequence and its score.

    Args:
        emissions, transitions, triples, lengths, constraints, mask, start_transitions,
            end_transitions, engine: as in `log_partition`.

    Returns:
        tags: int32, shape (batch, steps); in a tie the lowest last tag, and then the lowest before
            it; 0 at steps that are not valid.
        score: shape (batch,), dtype of `emissions`; 0 where no step is valid, −inf where no
            sequence is possible, NaN or +inf where such a score is used (the tags then mean
            nothing).

    Raises:
        ValueError, ImportError: as `log_partition`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import second_order
        >>> triples = np.zeros((2, 2, 2))
        >>> triples[0, 1, 0] = 1.0
        >>> second_order.viterbi(np.zeros((1, 4, 2)), np.zeros((2, 2)), triples)
        (array([[0, 1, 0, 0]], dtype=int32), array([1.]))

    Source: He, 1988, "Extended Viterbi algorithm for second order hidden Markov process".
    """
    ends = start_transitions, end_transitions
    functions, chain, *more = _checked(
        emissions, transitions, triples, lengths, constraints, mask, ends, engine
    )
    tags, score = functions.viterbi(chain, *more)
    return tags, like(score, emissions)


def _checked(*arguments_and_engine):
    """The engine's functions, and what they take: a chain, the triples, and what is allowed."""
    *arguments, engine = arguments_and_engine
    chain, *more = chain_and_triples(*arguments)
    return engine_of_family("crf.second_order", chain.family, engine), chain, *more
