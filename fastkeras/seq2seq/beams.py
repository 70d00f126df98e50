"""One step of a beam search, written once for NumPy arrays and the tensors of every framework.

In the axes of all arrays, `rows` are the sentences that are still in the batch, `beams` their
hypotheses, those of a group side by side, and `most` is max_length + 1, the most steps there are.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastkeras._arrays import NUMPY, array_functions, dtype_of
from fastkeras.seq2seq.candidates import select
from fastkeras.seq2seq.hypotheses import Ended, best_of, none_ended
from fastkeras.seq2seq.states import gathered, like_states, reordered, repeated, to_numpy

LEAST_COVERAGE = 1e-10  # of a step of the source that no step of the target looked at


class Beams(NamedTuple):
    """The hypotheses that are being continued, and those that have ended."""

    sentences: Any  # int32 (rows,), their indices in the batch
    prefix: Any  # int32 (rows, most), or None
    source_mask: Any  # bool (rows, source steps), or None
    allowed: Any  # bool (rows, 1, vocabulary), or None
    tokens: Any  # int32 (rows, beams), the last ones
    scores: Any  # (rows, beams), log-likelihoods; −inf for finished sentences
    history: Any  # int32 (rows, beams, most), −1 for tokens still to come
    totals: Any  # (rows, beams, most), the scores after each token
    ancestry: Any  # int32 (rows, beams, most), −1 for steps still to come
    coverage: Any  # (rows, beams, source steps), the sums of attention so far, or None
    attention: Any  # (rows, beams, most, source steps), where it was computed, or None
    ended: Ended
    num_ended: Any  # int32 (rows, groups), how many hypotheses have ended until now
    states: Any
    context: Any


class Candidates(NamedTuple):
    """The best continuations of each group, (rows, groups · 2 · beams of a group)."""

    scores: Any
    tokens: Any
    parents: Any  # int32, among all beams


def first_beams(search, arrays, batch, dtype, start, given, states, context):
    """The `Beams` before the first step."""
    beams, most = search.num_beams, search.max_length + 1
    scores = np.full((1, beams), -np.inf)
    scores[:, :: beams // search.num_groups] = 0  # a group's beams are equal: one is continued
    none = -arrays.ones((batch, beams, most), "int32")
    start = arrays.cast(arrays.convert_to_tensor(start), "int32")
    zeros = arrays.zeros((batch, beams), "int32")
    number = search.num_groups * search.n_best
    size = None if given.source_mask is None else given.source_mask.shape[1]
    return Beams(
        arrays.arange(batch, dtype="int32"),
        given.prefix,
        given.source_mask,
        given.allowed,
        zeros + arrays.reshape(start, (-1, 1)),
        arrays.cast(arrays.convert_to_tensor(scores), dtype) + arrays.cast(zeros, dtype),
        none,
        arrays.zeros((batch, beams, most), dtype),
        none,
        arrays.zeros((batch, beams, size), dtype) if search.coverage_penalty else None,
        arrays.zeros((batch, beams, most, size), dtype) if search.return_attention else None,
        none_ended(arrays, batch, number, most, dtype),
        arrays.zeros((batch, search.num_groups), "int32"),
        repeated(states, beams),
        context,
    )


def next_beams(search, rules, step, allowed, arrays, t, beams):
    """The `Beams` after one step of the model.

    Args:
        search: the options, a `BeamSearch`; rules: its `TokenRules`.
        step: the model's step; allowed: a function of the step that says which tokens may come,
            or None.
        arrays: the functions for all arrays but states, context and logits.
        t: the number of the step: an integer, or one of a compiled program.
    """
    most = search.max_length + 1
    num_beams = beams.tokens.shape[1]
    is_now = arrays.arange(most, dtype="int32") == t
    here = arrays.arange(num_beams, dtype="int32")[:, None]
    ancestry = arrays.where(is_now, here, beams.ancestry)
    logits, states, context, attention = _called(step, arrays, t, beams, ancestry)
    coverage, kept_attention = beams.coverage, beams.attention
    if coverage is not None:
        coverage = coverage + attention
    if kept_attention is not None:
        kept_attention = _written(arrays, kept_attention, t, attention)
    logits = _adjusted(search, logits, t, beams)
    may = _all_rules(search, rules, allowed, arrays, t, beams, logits.shape[2])
    found = _candidates(search, arrays, logits, beams, may)
    spoiled = arrays.any(arrays.isnan(found.scores), axis=1)
    if arrays is NUMPY and spoiled.any():
        raise ValueError(
            f"step returned logits of NaN or +inf, of sentence {beams.sentences[spoiled][0]} in "
            f"step {t}"
        )

    is_end = (found.tokens == search.end) & (found.scores > -math.inf)
    beams = beams._replace(ancestry=ancestry, coverage=coverage)
    ended = _with_ended(search, arrays, t, beams, found, is_end)
    of_groups = arrays.reshape(
        arrays.cast(is_end, "int32"), (-1, search.num_groups, 2 * num_beams // search.num_groups)
    )
    num_ended = beams.num_ended + arrays.sum(of_groups, axis=2)
    scores, tokens, parents = _unfinished(arrays, found, is_end, search.num_groups)
    scores = arrays.where(spoiled[:, None], -math.inf, scores)
    is_over = _are_over(search, arrays, t, scores, ended, num_ended)
    history, totals, ancestry = (
        gathered(arrays, array, parents) for array in (beams.history, beams.totals, ancestry)
    )
    history = arrays.where(is_now, tokens[..., None], history)
    totals = arrays.where(is_now, scores[..., None], totals)
    if coverage is not None:
        coverage = gathered(arrays, coverage, parents)
    if arrays is not NUMPY:
        nan = arrays.where(spoiled, math.nan, arrays.zeros_like(scores[:, 0]))[:, None]
        ended = ended._replace(scores=ended.scores + nan, log_p=ended.log_p + nan)
    return beams._replace(
        tokens=tokens,
        scores=arrays.where(is_over[:, None], -math.inf, scores),
        history=history,
        totals=totals,
        ancestry=ancestry,
        coverage=coverage,
        attention=kept_attention,
        ended=ended,
        num_ended=num_ended,
        states=reordered(states, parents),
        context=context,
    )


def _called(step, arrays, t, beams, ancestry):
    """Call the model: logits, states, context, and attention or None."""
    rows, num_beams = arrays.shape(beams.tokens)
    if arrays is NUMPY:
        ancestry = ancestry[:, :, : t + 1]
    others = beams.states, beams.context
    tokens, ancestry = (like_states(array, *others) for array in (beams.tokens, ancestry))
    logits, states, context, *attention = step(tokens, *others, ancestry)
    if len(logits.shape) != 3 or not _fits(logits.shape[:2], (rows, num_beams)):
        raise ValueError(
            f"step must return logits of shape (batch, beams, vocabulary) = ({rows}, {num_beams}, "
            f"vocabulary), got {tuple(logits.shape)}"
        )
    if beams.coverage is None and beams.attention is None:
        return logits, states, context, None
    size = beams.source_mask.shape[1]
    if not attention or not _fits(attention[0].shape, (rows, num_beams, size)):
        got = tuple(attention[0].shape) if attention else "none"
        raise ValueError(
            f"step must return attention as its fourth result, of shape (batch, beams, source "
            f"steps) = ({rows}, {num_beams}, {size}), got {got}"
        )
    attention = to_numpy(attention[0]) if arrays is NUMPY else attention[0]
    return logits, states, context, arrays.cast(attention, dtype_of(beams.scores))


def _fits(shape, expected):
    """Whether a shape is the expected one, as far as both are known."""
    return len(shape) == len(expected) and all(
        size == n
        for size, n in zip(shape, expected, strict=True)
        if isinstance(size, int) and isinstance(n, int)
    )


def _written(arrays, attention, t, value):
    """The attention of step t, written to its place."""
    if arrays is NUMPY:
        attention[:, :, t] = value
        return attention
    return arrays.slice_update(attention, (0, 0, t, 0), value[:, :, None])


def _adjusted(search, logits, t, beams):
    """The logits of p^(1 / temperature), mixed with the biased prefix, at least float32."""
    arrays = array_functions(logits)
    is_biased = beams.prefix is not None and search.prefix_bias < 1
    if search.temperature == 1 and not is_biased:
        return logits
    dtype = "float64" if dtype_of(logits) == "float64" else "float32"
    logits = arrays.cast(logits, dtype) / search.temperature
    if not is_biased:
        return logits
    # Adding z to exp(x) of one token, with z = Σ exp(x) · bias / (1 − bias), gives it the
    # probability (1 − bias) p + bias, and the others (1 − bias) p.
    prefix, history = (like_states(array, logits) for array in (beams.prefix, beams.history))
    before = arrays.arange(prefix.shape[1], dtype="int32") < t
    follows = arrays.all((history == prefix[:, None]) | ~before, axis=2)
    token = arrays.take(prefix, t, axis=1)[:, None]
    peak = arrays.max(logits, axis=2, keepdims=True)
    peak = arrays.where(arrays.isfinite(peak), peak, arrays.zeros_like(peak))
    total = arrays.sum(arrays.exp(logits - peak), axis=2, keepdims=True)
    odds = search.prefix_bias / (1 - search.prefix_bias)
    is_it = (follows & (token >= 0))[..., None] & (
        arrays.arange(logits.shape[2], dtype="int32") == token[..., None]
    )
    # NaN stays, as the sign that logits are not sound
    added = peak + arrays.log(arrays.exp(logits - peak) + total * odds)
    mixed = arrays.where(is_it & (logits < math.inf), added, logits)
    return arrays.reshape(mixed, arrays.shape(logits))


def _all_rules(search, rules, allowed, arrays, t, beams, vocabulary):
    """Booleans (rows or 1, beams or 1, vocabulary): the tokens that may come next; None for all."""
    is_forced = search.prefix_bias == 1
    may = rules.allowed(arrays, t, beams.prefix if is_forced else None, vocabulary)
    may = None if may is None else may[:, None]
    others = [beams.allowed]
    if allowed is not None:
        history = beams.history[:, :, :t] if arrays is NUMPY else beams.history
        of_step = allowed(t, history, beams.sentences)
        of_step = to_numpy(of_step) if arrays is NUMPY else arrays.convert_to_tensor(of_step)
        if dtype_of(of_step) != "bool" or of_step.shape[-1] != vocabulary:
            raise ValueError(
                f"allowed must return booleans of shape (…, vocabulary={vocabulary}), got "
                f"{dtype_of(of_step)} of shape {tuple(of_step.shape)}"
            )
        while len(of_step.shape) < 3:
            of_step = of_step[None]
        others.append(of_step)
    for other in others:
        if other is not None:
            may = other if may is None else may & other
    return may


def _candidates(search, arrays, logits, beams, may):
    """The best continuations of each group."""

    def best(part, number, may):
        every = slice(None) if part is None else part
        found = select(
            logits if part is None else logits[:, part],
            beams.scores[:, every],
            number,
            history=beams.history[:, every],
            allowed=may,
            repetition_penalty=search.repetition_penalty,
            no_repeat_ngram=search.no_repeat_ngram,
            engine=search.engine,
        )
        return Candidates(*(map(to_numpy, found) if arrays is NUMPY else found))

    groups, size = search.num_groups, search.num_beams // search.num_groups
    if groups == 1:
        return best(None, 2 * size, may)
    words = arrays.arange(logits.shape[2], dtype="int32")
    parts, chosen = [], None
    for group in range(groups):
        part = slice(group * size, (group + 1) * size)
        may_here = may
        if may is not None and may.shape[1] not in (1, None):
            may_here = may[:, part]
        if chosen is None or search.diversity_penalty == 0:
            found = best(part, 2 * size, may_here)
        else:
            is_chosen = arrays.any(words == chosen[..., None], axis=1)[:, None]
            free, penalised = ~is_chosen, is_chosen
            if may_here is not None:
                free, penalised = free & may_here, penalised & may_here
            found = best(part, 2 * size, free)
            others = best(part, size * chosen.shape[1], penalised)
            both = [arrays.concatenate(pair, axis=1) for pair in zip(found, others, strict=True)]
            times = arrays.sum(
                arrays.cast(both[1][..., None] == chosen[:, None], dtype_of(both[0])), axis=2
            )
            times = arrays.where(both[0] > -math.inf, times, arrays.zeros_like(times))
            order = arrays.argsort(-(both[0] - search.diversity_penalty * times), axis=1)
            order = arrays.cast(order, "int32")[:, : 2 * size]
            found = Candidates(*(gathered(arrays, array, order) for array in both))
        parts.append(found._replace(parents=found.parents + group * size))
        scores, tokens, _ = _unfinished(arrays, found, found.tokens == search.end)
        of_group = arrays.where(scores > -math.inf, tokens, -1)
        chosen = of_group if chosen is None else arrays.concatenate([chosen, of_group], axis=1)
    return Candidates(
        *(arrays.concatenate(arrays_, axis=1) for arrays_ in zip(*parts, strict=True))
    )


def _unfinished(arrays, found, is_end, groups=1):
    """Of each group the better half of those that do not end, in order."""
    number = is_end.shape[1] // groups
    keys = arrays.reshape(arrays.cast(is_end, "int32"), (-1, groups, number)) * number
    keys = keys + arrays.arange(number, dtype="int32")
    order = arrays.cast(arrays.argsort(keys, axis=2), "int32")[:, :, : number // 2]
    order = order + arrays.arange(groups, dtype="int32")[:, None] * number
    order = arrays.reshape(order, (-1, groups * number // 2))
    return Candidates(*(gathered(arrays, array, order) for array in found))


def _with_ended(search, arrays, t, beams, found, is_end):
    """The ended hypotheses, with those that end now."""
    if arrays is NUMPY and not is_end.any():
        return beams.ended
    log_p = arrays.where(is_end, found.scores, -math.inf)
    scores = log_p / _length_norm(search, arrays, t, log_p)
    if beams.coverage is not None:
        read = arrays.minimum(gathered(arrays, beams.coverage, found.parents), 1)
        logs = arrays.log(arrays.maximum(read, LEAST_COVERAGE))
        logs = arrays.where(beams.source_mask[:, None], logs, arrays.zeros_like(logs))
        scores = scores + search.coverage_penalty * arrays.sum(logs, axis=2)
    new = Ended(
        scores,
        log_p,
        arrays.zeros_like(found.tokens) + t,
        *(
            gathered(arrays, array, found.parents)
            for array in (beams.history, beams.totals, beams.ancestry)
        ),
    )
    return best_of(arrays, beams.ended, new, search.num_groups)


def _length_norm(search, arrays, t, scores):
    """What to divide the log-likelihood of t tokens and the end by."""
    norms = np.arange(1, search.max_length + 3) ** float(search.length_penalty)
    norms = arrays.cast(arrays.convert_to_tensor(norms), dtype_of(scores))
    return arrays.take(norms, t, axis=0)


def _are_over(search, arrays, t, scores, ended, num_ended):
    """(rows,): whether no continuation can be among the best, or enough hypotheses have ended."""
    groups = search.num_groups
    is_over = num_ended < 0
    if search.early_stopping:  # even if the continuations cost no likelihood at all
        longest = search.max_length if search.length_penalty > 0 else t + 1
        best = arrays.max(arrays.reshape(scores, (-1, groups, search.num_beams // groups)), axis=2)
        worst = arrays.reshape(ended.scores, (-1, groups, search.n_best))[:, :, -1]
        is_over = is_over | (worst >= best / _length_norm(search, arrays, longest, scores))
    if search.patience is not None:
        enough = math.ceil(search.patience * (search.num_beams // groups))
        is_over = is_over | (num_ended >= enough)
    return arrays.all(is_over, axis=1)
