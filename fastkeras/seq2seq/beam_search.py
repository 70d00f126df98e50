"""Beam search on batches, driven by a function that does one step of a model."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastkeras.seq2seq.arguments import integer, number, positive
from fastkeras.seq2seq.candidates import select
from fastkeras.seq2seq.states import batch_of, kept, like_states, reordered, repeated, to_numpy
from fastkeras.seq2seq.tokens import TokenRules

FEW = 0.75  # share of unfinished sentences at which the finished ones leave the batch


class Hypotheses(NamedTuple):
    """What a search found, the best first for each sentence."""

    tokens: np.ndarray  # int32 (batch, n_best, longest), without the end, 0 past the length
    lengths: np.ndarray  # int32 (batch, n_best), the end not counted
    scores: np.ndarray  # (batch, n_best); −inf where there is no hypothesis
    log_likelihoods: np.ndarray  # (batch, n_best), of the tokens and the end token


@dataclass(frozen=True)
class BeamSearch:
    """Beam search: for each sentence, the hypotheses with the highest scores that it encounters.

    A hypothesis is a sequence of min_length to max_length tokens, followed by the end token. Its
    score is log p / length^length_penalty, with log p the model's log-likelihood of the tokens and
    the end, and their number as the length. In each step the `num_beams` best beginnings of each
    sentence are continued; see docs/seq2seq.md.

    Args:
        end: the token that ends a sequence.
        num_beams: how many beginnings are kept, at least 1.
        n_best: how many hypotheses to return, at least 1; if more than `num_beams`, some may not
            be found.
        min_length, max_length: how many tokens a hypothesis has, without the end.
        length_penalty: 0 for the log-likelihood, 1 for its average; more favours longer sequences.
        repetition_penalty, no_repeat_ngram: as in `select`; with a penalty, log p includes it.
        suppressed: tokens that no hypothesis may contain.
        early_stopping: whether to stop searching for a sentence once the result can no longer
            change. False goes on to `max_length`, with the same result.
        engine: as in `select`.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> import numpy as np
        >>> from fastkeras.seq2seq import BeamSearch
        >>> following = np.log([[0.1, 0.6, 0.3], [0.4, 0.1, 0.5], [0.4, 0.3, 0.3]])
        >>> def step(tokens, states, context, ancestry):
        ...     return following[tokens], states, context
        >>> search = BeamSearch(end=0, num_beams=3, max_length=3)
        >>> found = search(step, start=[0, 1])
        >>> found.tokens.tolist(), found.lengths.tolist(), np.exp(found.scores).round(2).tolist()
        ([[[1]], [[0]]], [[1], [0]], [[0.24], [0.4]])

    Source: Sutskever, Vinyals & Le, 2014; the exact stop is that of Huang, Zhao & Ma, 2017, "When
    to finish? Optimal beam search for neural text generation", for any length penalty.
    """

    end: int
    num_beams: int = 4
    n_best: int = 1
    min_length: int = 0
    max_length: int = 64
    length_penalty: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    suppressed: tuple = ()
    early_stopping: bool = True
    engine: str | None = None

    def __post_init__(self):
        integer("num_beams", self.num_beams, 1)
        integer("n_best", self.n_best, 1)
        number("length_penalty", self.length_penalty)
        positive("repetition_penalty", self.repetition_penalty)
        integer("no_repeat_ngram", self.no_repeat_ngram, 0)
        self._rules(None)

    def __call__(self, step, states=None, context=None, *, start, prefix=None):
        """Search for all sentences of a batch.

        Args:
            step: a function of (tokens, states, context, ancestry) that returns the logits of the
                next tokens, (batch, beams, vocabulary), the new states, and the context.
                tokens: int32, (batch, beams), the last token of each hypothesis.
                states: arrays that belong to hypotheses, each (batch, beams, …).
                context: arrays that belong to sentences: the output of an encoder, and caches of
                    keys and values for all hypotheses, (batch, beams, steps, …), which are never
                    reordered.
                ancestry: int32, (batch, beams, steps so far): the beam in which each token of a
                    hypothesis was given to `step`, which is its place in such a cache.
                In later steps the batch may be smaller, since finished sentences leave it.
            states, context: arrays (batch, …) in dicts, lists and tuples, or None. States are
                repeated for all beams before the first step.
            start: the token to begin with: an integer, or integers of shape (batch,).
            prefix: integers, (batch, steps): the tokens that the hypotheses of a sentence must
                begin with; a negative number ends them.

        Returns:
            `Hypotheses`.

        Raises:
            ValueError: arguments that do not fit each other, logits of another shape, or logits of
                NaN or +inf, with the sentence and the step.
        """
        batch = batch_of(start, states, context)
        rules = self._rules(prefix, batch)
        done = _Finished(self, batch)
        search = self._first(batch, states, context, start)
        for t in range(self.max_length + 1):
            if not len(search.sentences):
                break
            search = self._step(step, t, search, rules, done)
        return done.hypotheses()

    def _rules(self, prefix, batch=None):
        return TokenRules(
            self.end, self.min_length, self.max_length, self.suppressed, prefix, batch
        )

    def _first(self, batch, states, context, start):
        beams, most = self.num_beams, self.max_length + 1
        scores = np.full((batch, beams), -np.inf)
        scores[:, 0] = 0  # all beams are equal, so only one of them is continued
        return _Search(
            np.arange(batch),
            np.broadcast_to(np.reshape(start, (-1, 1)), (batch, beams)).astype(np.int32),
            scores,
            np.full((batch, beams, most), -1, np.int32),
            np.zeros((batch, beams, 0), np.int32),
            repeated(states, beams),
            context,
        )

    def _step(self, step, t, search, rules, done):
        sentences, tokens, scores, history, ancestry, states, context = search
        rows, beams = tokens.shape
        here = np.broadcast_to(np.arange(beams, dtype=np.int32)[:, None], (rows, beams, 1))
        ancestry = np.concatenate([ancestry, here], axis=2)
        as_states = (like_states(array, states, context) for array in (tokens, ancestry))
        tokens, handed_ancestry = as_states
        logits, states, context = step(tokens, states, context, handed_ancestry)
        if len(logits.shape) != 3 or tuple(logits.shape[:2]) != (rows, beams):
            raise ValueError(
                f"step must return logits of shape (batch, beams, vocabulary) = ({rows}, {beams}, "
                f"vocabulary), got {tuple(logits.shape)}"
            )
        allowed = rules.allowed(t, sentences, logits.shape[2])
        candidates = select(
            logits,
            scores,
            2 * beams,  # each beam may end once, which must leave enough others
            history=history,
            allowed=None if allowed is None else like_states(allowed, logits, dtype="bool"),
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram=self.no_repeat_ngram,
            engine=self.engine,
        )
        scores, tokens, parents = map(to_numpy, candidates)
        if np.isnan(scores).any():
            raise ValueError(
                f"step returned logits of NaN or +inf, of sentence "
                f"{sentences[np.isnan(scores).any(axis=1)][0]} in step {t}"
            )
        history = np.take_along_axis(history, parents[..., None], axis=1)
        is_end = (tokens == self.end) & (scores > -np.inf)
        done.add(sentences, t, np.where(is_end, scores, -np.inf), history)

        order = np.argsort(is_end, axis=1, kind="stable")[:, :beams]  # unfinished ones, best first
        scores, tokens, parents, history = (
            np.take_along_axis(array, order.reshape(order.shape + (1,) * (array.ndim - 2)), axis=1)
            for array in (scores, tokens, parents, history)
        )
        history[:, :, t] = tokens
        ancestry = np.take_along_axis(ancestry, parents[..., None], axis=1)
        scores[self._are_over(t, scores, done.worst(sentences))] = -np.inf
        states = reordered(states, parents)
        search = _Search(sentences, tokens, scores, history, ancestry, states, context)
        rows_kept = np.flatnonzero(scores[:, 0] > -np.inf)
        if len(rows_kept) > FEW * rows:
            return search
        of_numpy = (array[rows_kept] for array in search[:5])
        return _Search(*of_numpy, kept(states, rows_kept), kept(context, rows_kept))

    def _are_over(self, t, scores, worst):
        """Whether no continuation can be among the best, even if it costs no likelihood at all."""
        if not self.early_stopping:
            return np.zeros(len(scores), bool)
        longest = self.max_length + 1 if self.length_penalty > 0 else t + 2
        return worst >= scores[:, 0] / longest**self.length_penalty


class _Search(NamedTuple):
    """The hypotheses that are being continued; scores are −inf for finished sentences."""

    sentences: np.ndarray  # (rows,), their indices in the batch
    tokens: np.ndarray  # (rows, beams)
    scores: np.ndarray  # (rows, beams), best first
    history: np.ndarray  # (rows, beams, max_length + 1)
    ancestry: np.ndarray  # (rows, beams, steps so far)
    states: Any
    context: Any


class _Finished:
    """The best hypotheses that have ended, sorted for each sentence; in a tie the earlier first."""

    def __init__(self, search, batch):
        self.alpha = search.length_penalty
        shape = (batch, search.n_best)
        self.scores, self.log_p = np.full(shape, -np.inf), np.full(shape, -np.inf)
        self.tokens = np.zeros((*shape, search.max_length + 1), np.int32)
        self.lengths = np.zeros(shape, np.int32)

    def worst(self, sentences):
        """The score to be beaten."""
        return self.scores[sentences, -1]

    def add(self, sentences, length, log_p, tokens):
        """Add hypotheses of `length` tokens, (rows, number); ignore those with log_p = −inf."""
        if not (log_p > -np.inf).any():
            return
        new = log_p / (length + 1) ** self.alpha, log_p, tokens, np.full(log_p.shape, length)
        old = (array[sentences] for array in (self.scores, self.log_p, self.tokens, self.lengths))
        both = [np.concatenate(pair, axis=1) for pair in zip(old, new, strict=True)]
        order = np.argsort(-both[0], axis=1, kind="stable")[:, : self.scores.shape[1]]
        for array, merged in zip(
            (self.scores, self.log_p, self.tokens, self.lengths), both, strict=True
        ):
            index = order.reshape(order.shape + (1,) * (merged.ndim - 2))
            array[sentences] = np.take_along_axis(merged, index, axis=1)

    def hypotheses(self):
        self.lengths[np.isneginf(self.scores)] = 0
        longest = self.lengths.max(initial=0)
        is_one = np.arange(longest) < self.lengths[..., None]
        tokens = np.where(is_one, self.tokens[..., :longest], 0)
        return Hypotheses(tokens, self.lengths, self.scores, self.log_p)
