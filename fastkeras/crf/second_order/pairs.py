"""The second-order chain as a linear chain over pairs of tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastkeras._arrays import array_functions, contiguous
from fastkeras._engines import check_engine
from fastkeras.crf.arguments import tags_of
from fastkeras.crf.chain import Chain, check_values
from fastkeras.crf.second_order.arguments import chain_and_triples
from fastkeras.crf.second_order.blocks import states_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastkeras.crf.chain import LowRank
    from fastkeras.crf.constraints import Constraints
    from fastkeras.typing import ArrayLike, Tensor


class PairChain(NamedTuple):
    """A linear chain that is the second-order chain: its states are pairs of tags, or first tags.

    Attributes:
        arguments: for every function of `fastkeras.crf`, as keyword arguments: emissions,
            transitions, lengths, mask, start_transitions, end_transitions and engine. What that
            function calls tags are states here.
        tag_of_state: int32, shape (num_states,), a NumPy array: the last tag of each state.
        state_of_pair: int32, shape (num_tags + 1, num_tags), a NumPy array: [i, j] is the state of
            tag j after i, and the last row has those of first tags. A pair that is not allowed has
            the state of j as a first tag, to which nothing leads.
    """

    arguments: dict[str, Any]
    tag_of_state: NDArray[np.int32]
    state_of_pair: NDArray[np.int32]

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

    def states(self, tags: ArrayLike) -> Tensor:
        """The states of given tags, for functions that take tags: likelihoods, with weights or not.

        Args:
            tags: integers, shape (batch, steps); read at valid steps only.

        Returns:
            int32, shape (batch, steps). Where constraints forbid the tags, the path is impossible.

        Raises:
            ValueError: tags of another shape or dtype, or out of range at a valid step. In a graph,
                which cannot raise, their state is out of range, too.

        Example:
            >>> import numpy as np
            >>> from fastkeras import crf
            >>> from fastkeras.crf import second_order
            >>> triples = np.log([[[4.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
            >>> chain = second_order.pair_chain(np.zeros((1, 3, 2)), np.zeros((2, 2)), triples)
            >>> states = chain.states(np.array([[0, 0, 0]]))
            >>> weights = np.array([[0.0, 0.0, 2.0]])  # the last step counts twice, others do not
            >>> p = crf.weighted_log_likelihood(tags=states, weights=weights, **chain.arguments)
            >>> float(np.exp(p[0]).round(6))  # 0.8², of the last tag after two zeros
            0.64
        """
        num_tags = self.state_of_pair.shape[1]
        lengths, mask = self.arguments["lengths"], self.arguments["mask"]
        emissions = self.arguments["emissions"][:, :, -num_tags:]  # of first tags: as given
        chain = Chain(emissions, None, lengths, mask, None, None)
        tags = tags_of(chain, tags)
        check_values(chain, tags)
        array, valid = array_functions(emissions), chain.valid_steps()
        steps = array.arange(array.shape(valid)[1], dtype="int32")
        rank = array.cumsum(array.cast(valid, "int32"), axis=1)
        order = array.argsort(array.where(valid, steps, steps + array.shape(valid)[1]), axis=1)
        previous = array.take_along_axis(order, array.maximum(rank - 2, 0), axis=1)
        in_range = (tags >= 0) & (tags < num_tags)
        tags = array.clip(tags, 0, num_tags - 1)
        before = array.take_along_axis(tags, previous, axis=1)
        pairs = array.where(rank > 1, before, num_tags) * num_tags + tags
        table = array.convert_to_tensor(self.state_of_pair.ravel())
        states = array.reshape(array.take(table, array.reshape(pairs, (-1,))), array.shape(tags))
        return array.cast(array.where(in_range, states, len(self.tag_of_state)), "int32")


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
    engine: str | None = None,
) -> PairChain:
    """The linear chain over pairs of tags, for every function of `fastkeras.crf`.

    For what this module does not have: the k best sequences, samples, entropy, divergence, weights
    of steps, smoothed labels, sets of tags (those of the states' tags). A step costs the square of
    the number of states: the allowed pairs of tags and the tags.

    Args:
        emissions, transitions, triples, lengths, constraints, mask, start_transitions,
            end_transitions: as in `log_partition`.
        engine: a name in `fastkeras.engines("crf")`, for `arguments`; None for the fastest.

    Returns:
        A `PairChain`; differentiable with respect to the scores.

    Raises:
        ValueError: as `log_partition`, and for an engine that is none.

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
    check_engine("crf", engine)
    ends = start_transitions, end_transitions
    chain, triples, allowed = chain_and_triples(
        emissions, transitions, triples, lengths, constraints, mask, ends
    )
    return pairs_of(chain, triples, allowed, engine)[1]


def pairs_of(chain, triples, allowed, engine=None):
    """The `Chain` over pairs, and the `PairChain`, of a chain with triples."""
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

    constant = array.convert_to_tensor

    def of_all(scores, places, known):
        places = constant(np.where(known, places, 0).ravel())
        flat = array.take(array.reshape(scores, (-1,)), places, axis=0)
        return array.reshape(flat, (number, number))

    has_triple = of_triples < num_tags**3
    scores = of_all(chain.transitions, of_pairs, follows)
    scores = scores + array.where(constant(has_triple), of_all(triples, of_triples, has_triple), 0)
    is_first, tags = constant(np.arange(number) >= number - num_tags), constant(states.tags)
    start = array.take(chain.start_transitions, tags, axis=0)
    scores = (
        array.take(chain.emissions, tags, axis=2),
        array.where(constant(follows), scores, -np.inf),
        array.where(is_first, start, -np.inf),
        array.take(chain.end_transitions, tags, axis=0),
    )
    dtype = chain.emissions.dtype
    x, a, start, end = (contiguous(array.cast(of_states, dtype)) for of_states in scores)
    of_pairs = Chain(x, a, chain.lengths, chain.mask, start, end)
    arguments = {**of_pairs._asdict(), "engine": engine}
    return of_pairs, PairChain(arguments, states.tags, states.state_of_pair)
