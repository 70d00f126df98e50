"""What may follow what: the states of a second-order chain, and its triples in dense blocks.

A state is a pair of neighbouring tags that is allowed, or a first tag. With a middle tag fixed, all
tags that may stand before it meet all that may stand after it: a dense block of triples. Blocks of
the same shape go together, so that a step is a few batched products over the allowed triples alone.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np


class Blocks(NamedTuple):
    """The blocks whose middle tags have as many tags before them, and after them.

    G is the number of middle tags, I that of the tags before and one for no tag, O of those after.
    """

    first: int  # the number of the first state that they lead to; the others follow it
    sources: Any  # (G, I): the number of the state of the first two tags
    triples: Any  # (G, I, O): the index of a triple among num_tags³; num_tags³ where there is none
    pairs: Any  # (G, 1, O): the index of its last two tags among num_tags²


class States(NamedTuple):
    """The states, in the order in which the blocks lead to them; the first tags come last."""

    tags: Any  # (states,): the last tag of each
    blocks: tuple
    order: Any  # the states by their last tag, and then by the one before
    into: Any  # (states, most): the states before each, padded by the number of states
    triples_into: Any  # (states, most): as in `Blocks`
    pairs_into: Any  # (states, 1): as in `Blocks`
    leaving: Any  # (states,): the place of each among the sources of all blocks, or their number
    state_of_pair: Any  # (num_tags + 1, num_tags): as in `PairChain`

    @property
    def num_triples(self):
        """The number of allowed triples, and pairs at the beginning: the work of a step."""
        return sum(block.triples.size for block in self.blocks)


@cache
def states_of(allowed, num_tags):
    """The states for a bool matrix, (num_tags, num_tags), of what may follow what, as bytes."""
    allowed = np.frombuffer(allowed, bool).reshape(num_tags, num_tags)
    before = [np.flatnonzero(allowed[:, j]).tolist() for j in range(num_tags)]
    after = [np.flatnonzero(allowed[j]).tolist() for j in range(num_tags)]
    groups = {}
    for j in range(num_tags):
        if after[j]:
            groups.setdefault((len(before[j]), len(after[j])), []).append(j)
    pairs = [(j, k) for middles in groups.values() for j in middles for k in after[j]]
    states = pairs + [(num_tags, j) for j in range(num_tags)]  # num_tags stands for no tag
    number = {state: n for n, state in enumerate(states)}

    def triple(i, j, k):
        return num_tags**3 if i == num_tags else (i * num_tags + j) * num_tags + k

    blocks, first = [], 0
    for middles in groups.values():
        befores = [(j, [*before[j], num_tags]) for j in middles]
        block = Blocks(
            first,
            np.array([[number[i, j] for i in tags] for j, tags in befores], "int32"),
            np.array(
                [[[triple(i, j, k) for k in after[j]] for i in tags] for j, tags in befores],
                "int32",
            ),
            np.array([[[j * num_tags + k for k in after[j]]] for j in middles], "int32"),
        )
        blocks.append(block)
        first += block.pairs.size
    most = max(map(len, before)) + 1
    into = np.full((len(states), most), len(states), "int32")
    triples_into = np.full((len(states), most), num_tags**3, "int32")
    for n, (j, k) in enumerate(pairs):
        for place, i in enumerate([*before[j], num_tags]):
            into[n, place], triples_into[n, place] = number[i, j], triple(i, j, k)
    sources = [source for block in blocks for source in block.sources.ravel()]
    leaving = np.full(len(states), len(sources), "int32")
    leaving[sources] = np.arange(len(sources))
    state_of_pair = np.tile(np.arange(len(pairs), len(states), dtype="int32"), (num_tags + 1, 1))
    for n, (j, k) in enumerate(pairs):
        state_of_pair[j, k] = n
    return States(
        np.array([k for _, k in states], "int32"),
        tuple(blocks),
        np.array(sorted(range(len(states)), key=lambda n: states[n][::-1]), "int32"),
        into,
        triples_into,
        np.array([[0 if i == num_tags else i * num_tags + j] for i, j in states], "int32"),
        leaving,
        state_of_pair,
    )
