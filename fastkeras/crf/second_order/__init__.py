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

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastkeras._arrays import array_functions, contiguous, dtype_of
from fastkeras._engines import engine_of_family
from fastkeras.crf.arguments import chain_of, like, tags_of
from fastkeras.crf.constraints import Constraints, checked
from fastkeras.crf.second_order.blocks import states_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastkeras.crf.chain import LowRank
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
        step is valid, NaN where a score that the sequence uses is NaN or +inf. Differentiable in
        the engine `keras`.

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
    functions, chain, *more = _checked(
        emissions,
        transitions,
        triples,
        lengths,
        constraints,
        mask,
        start_transitions,
        end_transitions,
        engine,
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
    functions, chain, *more = _checked(
        emissions,
        transitions,
        triples,
        lengths,
        constraints,
        mask,
        start_transitions,
        end_transitions,
        engine,
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
        for an impossible sequence; 0 where no step is valid. Differentiable in the engine `keras`.

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
    functions, chain, *more = _checked(
        emissions,
        transitions,
        triples,
        lengths,
        constraints,
        mask,
        start_transitions,
        end_transitions,
        engine,
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
    functions, chain, *more = _checked(
        emissions,
        transitions,
        triples,
        lengths,
        constraints,
        mask,
        start_transitions,
        end_transitions,
        engine,
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
    functions, chain, *more = _checked(
        emissions,
        transitions,
        triples,
        lengths,
        constraints,
        mask,
        start_transitions,
        end_transitions,
        engine,
    )
    tags, score = functions.viterbi(chain, *more)
    return tags, like(score, emissions)


class PairChain(NamedTuple):
    """A linear chain that is the second-order chain: its states are pairs of tags, or first tags.

    Attributes:
        arguments: for every function of `fastkeras.crf`, as keyword arguments: emissions,
            transitions, mask, start_transitions and end_transitions. What it calls tags are states.
        tag_of_state: int32, shape (num_states,), a NumPy array: the last tag of each state.
    """

    arguments: dict[str, Any]
    tag_of_state: NDArray[np.int32]

    def tags(self, states: ArrayLike) -> Tensor:
        """The tags of states that were decoded, drawn, and so on.

        Args:
            states: integers, shape (…, batch, steps), or (batch, k, steps) as of `k_best`.

        Returns:
            int32 of this shape. At steps that are not valid the tags mean nothing.
        """
        array = array_functions(states)
        flat = array.take(array.convert_to_tensor(self.tag_of_state), array.reshape(states, (-1,)))
        return array.reshape(flat, array.shape(states))


def pair_chain(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    triples: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    constraints: Constraints | None = None,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
) -> PairChain:
    """The linear chain over pairs of tags, for every function of `fastkeras.crf`.

    For what this module does not have: the k best sequences, samples, entropy, divergence; and for
    the kernels in C++, which are fast where there are few tags. A step costs the square of the
    number of states: the allowed pairs of tags and the tags.

    Args:
        emissions, transitions, triples, lengths, constraints, mask, start_transitions,
            end_transitions: as in `log_partition`.

    Returns:
        A `PairChain`; differentiable with respect to the scores.

    Raises:
        ValueError: as `log_partition`.

    Example:
        >>> import numpy as np
        >>> from fastkeras import crf
        >>> from fastkeras.crf import second_order
        >>> triples = np.zeros((2, 2, 2))
        >>> triples[0, 1, 0] = 2.0
        >>> chain = second_order.pair_chain(np.zeros((1, 3, 2)), np.zeros((2, 2)), triples)
        >>> states, scores = crf.k_best(k=2, **chain.arguments)
        >>> chain.tags(states)[0, 0], scores[0, 0]
        (array([0, 1, 0], dtype=int32), np.float64(2.0))

    Source: He, 1988, "Extended Viterbi algorithm for second order hidden Markov process".
    """
    chain, triples, allowed = _chain_and_triples(
        emissions,
        transitions,
        triples,
        lengths,
        constraints,
        mask,
        start_transitions,
        end_transitions,
    )
    array, num_tags = array_functions(chain.emissions), len(allowed)
    states = states_of(allowed.tobytes(), num_tags)
    number = len(states.tags)
    sources, at = states.into, np.arange(number)[:, None]
    of_triples = np.full((number, number + 1), num_tags**3)
    of_triples[at, sources] = states.triples_into
    follows = np.zeros((number, number + 1), bool)
    follows[at, sources] = True
    of_triples, follows = of_triples.T[:-1], follows.T[:-1]  # from the state in the row
    of_pairs = np.broadcast_to(states.pairs_into[:, 0], (number, number))

    def of_all(scores, places, known):
        flat = array.take(array.reshape(scores, (-1,)), np.where(known, places, 0).ravel(), axis=0)
        return array.reshape(flat, (number, number))

    has_triple = of_triples < num_tags**3
    scores = of_all(chain.transitions, of_pairs, follows)
    scores = scores + array.where(has_triple, of_all(triples, of_triples, has_triple), 0)
    is_first = np.arange(number) >= number - num_tags
    start = array.take(chain.start_transitions, states.tags, axis=0)
    arguments = {
        "emissions": array.take(chain.emissions, states.tags, axis=2),
        "transitions": array.where(follows, scores, -np.inf),
        "start_transitions": array.where(is_first, start, -np.inf),
        "end_transitions": array.take(chain.end_transitions, states.tags, axis=0),
        "mask": chain.valid_steps(),
    }
    return PairChain(arguments, states.tags)


def _checked(*arguments_and_engine):
    """The engine's functions, and what they take: a chain, the triples, and what is allowed."""
    *arguments, engine = arguments_and_engine
    chain, *more = _chain_and_triples(*arguments)
    return engine_of_family("crf.second_order", chain.family, engine), chain, *more


def _chain_and_triples(emissions, transitions, triples, lengths, constraints, mask, start, end):
    chain = chain_of(emissions, transitions, lengths, mask, start, end, may_vary=False)
    num_tags = chain.emissions.shape[2]
    allowed = np.ones((num_tags, num_tags), bool)
    if constraints is not None:
        constraints = checked(constraints, num_tags)
        allowed = constraints.transitions
        ends = (chain.start_transitions, chain.end_transitions)
        chain = chain._replace(**constraints.apply(chain.transitions, *ends))
    array = array_functions(chain.emissions)
    triples = array.convert_to_tensor(triples)
    shape = tuple(triples.shape)
    if shape != (num_tags,) * 3:
        raise ValueError(
            f"triples must have shape (num_tags, num_tags, num_tags) = {(num_tags,) * 3}, "
            f"got {shape}"
        )
    if not dtype_of(triples).startswith(("float", "bfloat", "int", "uint")):
        raise ValueError(f"triples must be numbers, got {dtype_of(triples)}")
    triples = contiguous(array.cast(triples, chain.emissions.dtype))
    return chain, triples, allowed
