"""Viterbi over a sequence that arrives piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras.crf.arguments import chain_of
from fastkeras.crf.chain import LowRank

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastkeras.typing import ArrayLike

BLOCK = 256  # in a long chunk, after so many steps it looks for tags that are decided
RECENTRE = 32  # steps, as in csrc/crf/sweeps/viterbi.h, since rows have to round in the same way


class ViterbiStream:
    """Decodes one sequence while it arrives: tags are given out once no later step can change them.

    Each tag of the last step seen has a best path to it; what all these paths have in common at
    their beginning is decided. Only the rest is kept: its emissions, and a pointer for each step
    and tag. However the sequence is cut into pieces, tags and score are those of `viterbi` by the
    `native` engine on the whole sequence, bit for bit and in ties too; other engines may choose
    another path where scores differ by rounding only.

    Args:
        transitions: float, shape (num_tags, num_tags), a NumPy array or a `LowRank` of them; or
            None if they vary with the step, and come with the emissions.
        start_transitions, end_transitions: as in `viterbi`, NumPy arrays.

    Raises:
        ValueError: as in `viterbi`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import ViterbiStream
        >>> stream = ViterbiStream(np.array([[0.0, -3.0], [-3.0, 0.0]]))
        >>> stream.feed(np.array([[0.0, 1.0], [0.0, 1.0]]))  # what follows may still change both
        array([], dtype=int32)
        >>> stream.feed(np.array([[0.0, 2.0], [0.0, 2.0]])), stream.undecided
        (array([1, 1, 1], dtype=int32), 1)
        >>> stream.finish()
        (array([1], dtype=int32), 6.0)

    Source: Šrámek, Brejová & Vinař, 2007, "On-line Viterbi algorithm for analysis of long
        biological sequences".
    """

    def __init__(
        self,
        transitions: ArrayLike | LowRank | None,
        start_transitions: ArrayLike | None = None,
        end_transitions: ArrayLike | None = None,
    ) -> None:
        if isinstance(transitions, LowRank):
            transitions = LowRank(*map(np.asarray, transitions)).product()
        if transitions is not None:
            transitions = np.atleast_1d(np.asarray(transitions))
        self._transitions, self._ends = transitions, (start_transitions, end_transitions)
        self._begin()
        if transitions is not None:
            self._arguments(np.zeros((0, transitions.shape[-1])))

    @property
    def undecided(self) -> int:
        """Number of steps seen whose tags have not been given out."""
        return len(self._emissions)

    def feed(self, emissions: ArrayLike, transitions: ArrayLike | None = None) -> NDArray[np.int32]:
        """Take the next steps and return the tags that are now decided.

        Args:
            emissions: float, shape (steps, num_tags), any number of steps. The first call for a
                sequence decides the dtype of the computation, float64 or float32, as in `viterbi`.
            transitions: for a stream made with None: float, shape (steps, num_tags, num_tags), into
                each of these steps. What is for the first step of the sequence is not used.

        Returns:
            int32, shape (n,): the tags of the n steps that follow those given out before; often
            none, sometimes of many steps at once.

        Raises:
            ValueError: the shape or dtype is wrong, or transitions are given twice or not at all.
        """
        x, self._start, into, self._end = self._arguments(emissions, transitions)
        self._dtype = x.dtype
        decided = [np.empty(0, np.int32)]
        for first in range(0, len(x), BLOCK):
            for t in range(first, min(first + BLOCK, len(x))):
                self._step(x[t].copy(), into if into.ndim == 2 else into[t])
            decided.append(self._decided())
        return np.concatenate(decided)

    def finish(self) -> tuple[NDArray[np.int32], float]:
        """End the sequence; the stream is then ready for another one.

        Returns:
            tags: int32, shape (n,): of the steps that were undecided.
            score: float, of the whole sequence; −inf if none is possible (the tags then mean
            nothing), 0 if it had no steps.
        """
        tags, score = np.empty(0, np.int32), 0.0
        if self._steps:
            scores = self._best + self._end
            if self.undecided:
                tags = self._give_out(scores.argmax(), self.undecided)
            score = scores.max()  # if −inf, +inf or NaN, it is also that of the whole sequence
            if np.isfinite(score):
                self._sums[0, 0] += self._end[self._previous]
                score = self._sums[:, 0].sum() + self._sums[:, 1].sum()
            score = float(self._dtype.type(score))
        self._begin()
        return tags, score

    def _arguments(self, emissions, transitions=None):
        emissions = np.asarray(emissions, self._dtype)
        if (transitions is None) == (self._transitions is None):
            raise ValueError(
                "transitions must be given once, for all steps to ViterbiStream or for each step "
                f"to feed, got them {'not at all' if transitions is None else 'twice'}"
            )
        varies = transitions is not None
        transitions = np.atleast_1d(np.asarray(transitions if varies else self._transitions))
        num_tags = transitions.shape[-1]
        if emissions.ndim != 2 or emissions.shape[1] != num_tags:
            raise ValueError(
                f"emissions must have shape (steps, num_tags) = (steps, {num_tags}), "
                f"got {emissions.shape}"
            )
        if varies and transitions.shape != (len(emissions), num_tags, num_tags):
            raise ValueError(
                "transitions must have shape (steps, num_tags, num_tags) = "
                f"{(len(emissions), num_tags, num_tags)}, got {transitions.shape}"
            )
        nothing = np.zeros((num_tags, num_tags))
        pairs = nothing if varies else transitions
        chain = chain_of(emissions[None], pairs, None, None, *self._ends, may_vary=False)
        into = transitions.astype(chain.emissions.dtype) if varies else chain.transitions
        into = np.ascontiguousarray(np.swapaxes(into, -1, -2))
        return chain.emissions[0], chain.start_transitions, into, chain.end_transitions

    def _begin(self):
        self._dtype = None
        self._steps = 0
        self._best = None  # for each tag, the best score of a path to it at the last step seen
        self._emissions = []  # of the undecided steps
        self._into = []  # the transitions into each of these steps, [tag, tag before]
        self._pointers = []  # for each of these steps and tags, the best tag before
        self._origins = None  # for the best path to each tag, its tag at the first undecided step
        self._previous = None  # the last tag given out
        # Of all tags given out: sums of emissions and of transitions, by the parity of the step.
        self._sums = np.zeros((2, 2))
        self._num_decided = 0

    def _step(self, emissions, into):
        if self._steps == 0:
            best, pointers = self._start + emissions, None
        else:
            candidates = self._best + into
            best, pointers = candidates.max(axis=1) + emissions, candidates.argmax(axis=1)
        self._steps += 1
        if self._steps % RECENTRE == 0 and np.isfinite(best.max()):
            best -= np.rint(best.max())  # a whole number, so that ties stay ties
        self._best = best
        self._origins = self._origins[pointers] if self.undecided else np.arange(len(best))
        self._emissions.append(emissions)
        self._into.append(into)
        self._pointers.append(pointers)

    def _decided(self):
        """Give out the common beginning of the best paths to all tags that are still possible."""
        ends = np.flatnonzero(self._best > -np.inf) if self.undecided else []
        if len(ends) == 0 or np.ptp(self._origins[ends]) > 0:
            return np.empty(0, np.int32)
        tags, steps = np.arange(len(self._best)), self.undecided
        while np.ptp(tags[ends]) > 0:
            self._origins = tags
            steps -= 1
            tags = self._pointers[steps][tags]
        return self._give_out(tags[ends[0]], steps)

    def _give_out(self, tag, steps):
        """Drop the first `steps` undecided steps, the last with this tag; return their tags."""
        path = np.empty(steps, np.int32)
        for t in range(steps - 1, -1, -1):
            path[t] = tag
            if t > 0:
                tag = self._pointers[t][tag]
        # the score is summed as in csrc/crf/paths.cc: in float64, step by step, in four sums
        before = np.append([self._previous or 0], path[:-1])
        into = np.array([self._into[t][path[t], before[t]] for t in range(steps)], np.float64)
        if self._previous is None:
            into[0] = self._start[path[0]]
        emissions = np.array(self._emissions[:steps])[np.arange(steps), path]
        terms = np.column_stack([emissions, into])
        for first in range(min(steps, 2)):
            of_parity = self._sums[(self._num_decided + first) % 2]
            of_parity[:] = np.vstack([of_parity, terms[first::2]]).cumsum(0)[-1]
        self._num_decided += steps
        self._previous = path[-1]
        del self._emissions[:steps], self._into[:steps], self._pointers[:steps]
        return path
