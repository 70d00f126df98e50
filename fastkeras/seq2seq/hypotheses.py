"""Hypotheses that have ended: the best of each sentence, for arrays of every family."""

from typing import Any, NamedTuple

from fastkeras.seq2seq.states import gathered


class Hypotheses(NamedTuple):
    """What a search found, the best first for each sentence.

    A search in a compiled program returns tensors, with `max_length` in place of the longest.

    Attributes:
        tokens: int32 (batch, n_best, longest), without the end, 0 past the length.
        lengths: int32 (batch, n_best), the end not counted.
        scores: (batch, n_best); −inf where there is no hypothesis.
        log_likelihoods: (batch, n_best), of the tokens and the end token.
        token_log_likelihoods: (batch, n_best, longest + 1), of each token, then of the end.
        attention: (batch, n_best, longest + 1, source steps), if it was asked for; else None.
    """

    tokens: Any
    lengths: Any
    scores: Any
    log_likelihoods: Any
    token_log_likelihoods: Any
    attention: Any = None


class Ended(NamedTuple):
    """Hypotheses of `rows` sentences, (rows, number, …), best first for each group of beams."""

    scores: Any  # −inf: there is none; NaN: the sentence had logits of NaN
    log_p: Any
    lengths: Any  # int32
    tokens: Any  # int32 (rows, number, most), as the next two
    totals: Any  # log-likelihoods of the beginnings that end with each token
    ancestry: Any  # int32, the beam in which each token, and the end, was predicted


def none_ended(arrays, rows, number, most, dtype):
    """No hypotheses."""
    nowhere = arrays.zeros((rows, number), dtype) - float("inf")
    none = -arrays.ones((rows, number, most), "int32")
    zeros = arrays.zeros((rows, number), "int32")
    totals = arrays.zeros((rows, number, most), dtype)
    return Ended(nowhere, nowhere, zeros, none, totals, none)


def best_of(arrays, ended, others, groups):
    """The best of both in each group, as many as `ended` has; in a tie those of `ended` first.

    Args:
        ended, others: `Ended` of shape (rows, groups · n, …) and (rows, groups · m, …).
    """
    n = ended.scores.shape[1] // groups

    def of_groups(array):
        rows, number, *rest = arrays.shape(array)
        return arrays.reshape(array, (rows * groups, number // groups, *rest))

    both = [
        arrays.concatenate([of_groups(array), of_groups(other)], axis=1)
        for array, other in zip(ended, others, strict=True)
    ]
    order = arrays.argsort(-both[0], axis=1)[:, :n]  # a stable sort
    order = arrays.cast(order, "int32")
    best = (gathered(arrays, array, order) for array in both)
    return Ended(*(arrays.reshape(a, (-1, groups * n, *a.shape[2:])) for a in best))


def hypotheses_of(arrays, ended, attention):
    """The `Hypotheses`, of all groups together.

    Args:
        attention: (rows, beams, most, source), where each step was computed; or None.
    """
    best_first = arrays.cast(arrays.argsort(-ended.scores, axis=1), "int32")
    ended = Ended(*(gathered(arrays, array, best_first) for array in ended))
    is_one = ended.log_p > -float("inf")  # not NaN either
    lengths = arrays.where(is_one, ended.lengths, 0)
    rows, number, most = arrays.shape(ended.tokens)
    steps = arrays.arange(most, dtype="int32")
    is_token = steps < lengths[..., None]
    tokens = arrays.where(is_token, ended.tokens, 0)[..., : most - 1]
    totals = arrays.where(is_token, ended.totals, ended.log_p[..., None])
    before = arrays.concatenate(
        [arrays.zeros_like(totals[..., :1]), arrays.where(is_token, totals, 0)[..., : most - 1]],
        axis=2,
    )
    is_part = (steps <= lengths[..., None]) & is_one[..., None]
    of_tokens = arrays.where(is_part, arrays.where(is_one[..., None], totals, 0) - before, 0)
    if attention is not None:
        beams = attention.shape[1]
        place = arrays.arange(rows, dtype="int32")[:, None, None] * beams
        place = (place + arrays.maximum(ended.ancestry, 0)) * most + steps
        size = attention.shape[3]
        flat = arrays.reshape(attention, (rows * beams * most, size))
        read = arrays.take(flat, arrays.reshape(place, (-1,)), axis=0)
        read = arrays.reshape(read, (rows, number, most, size))
        attention = arrays.where(is_part[..., None], read, 0)
    return Hypotheses(tokens, lengths, ended.scores, ended.log_p, of_tokens, attention)
