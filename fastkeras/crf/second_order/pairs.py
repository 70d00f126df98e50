"""The second-order chain as a linear chain over pairs of tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastkeras._arrays import array_functions
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

    For what this module does not have: the k best sequences, samples, entropy, divergence. A step
    costs the square of the number of states: the allowed pairs of tags and the tags.

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
    ends = start_transitions, end_transitions
    chain, triples, allowed = chain_and_triples(
        emissions, transitions, triples, lengths, constraints, mask, ends
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
