"""Sequences drawn from a model, or the most probable token of each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras._arrays import NUMPY
from fastkeras.seq2seq.arguments import integer, number
from fastkeras.seq2seq.beam_search import FEW
from fastkeras.seq2seq.candidates import select
from fastkeras.seq2seq.hypotheses import Hypotheses
from fastkeras.seq2seq.states import batch_of, kept, like_states, repeated, to_numpy
from fastkeras.seq2seq.tokens import TokenRules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from fastkeras.typing import ArrayLike


def sample(
    step: Callable[[Any, Any, Any, Any], tuple[Any, ...]],
    states: Any = None,
    context: Any = None,
    *,
    start: int | ArrayLike,
    end: int,
    num_samples: int = 1,
    min_length: int = 0,
    max_length: int = 64,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    suppressed: Sequence[int] = (),
    prefix: ArrayLike | None = None,
    seed: int | np.random.Generator | None = None,
) -> Hypotheses:
    """Draw sequences, token by token.

    Args:
        step, states, context, start, prefix: as in calling a `BeamSearch`, with samples as beams.
        end, min_length, max_length, suppressed: as in `BeamSearch`; a sequence ends after
            `max_length` tokens.
        num_samples: how many sequences to draw for each sentence, at least 1.
        temperature: the logits are divided by it; 0 takes the most probable token, in a tie the
            lowest.
        top_k: only the k most probable tokens are drawn; 0 for all.
        top_p: only the most probable tokens are drawn, as few as have at least this probability
            together; 1 for all.
        min_p: only tokens are drawn whose probability is at least this share of that of the most
            probable token. The three are applied after the temperature, in this order.
        seed: an integer, which gives the same samples every time, or a NumPy `Generator`.

    Returns:
        `Hypotheses` in the order in which they were drawn. Scores and log-likelihoods are both the
        log-likelihood of the tokens and the end by the unchanged model; −inf where no token is
        possible.

    Raises:
        ValueError: an argument out of its range, or logits of NaN or +inf.

    Example:
        >>> import numpy as np
        >>> from fastkeras.seq2seq import sample
        >>> following = np.log([[0.1, 0.6, 0.3], [0.4, 0.1, 0.5], [0.4, 0.3, 0.3]])
        >>> def step(tokens, states, context, ancestry):
        ...     return following[tokens], states, context
        >>> found = sample(step, start=[1], end=0, num_samples=1000, seed=0)
        >>> float((found.lengths == 0).mean().round(1))  # as often as the end follows the token 1
        0.4

    Source: Holtzman et al., 2020, "The curious case of neural text degeneration" (top-p); Fan,
    Lewis & Dauphin, 2018, "Hierarchical neural story generation" (top-k); Nguyen et al., 2024,
    "Turning up the heat: min-p sampling for creative and coherent LLM outputs".
    """
    batch = batch_of(start, states, context)
    integer("num_samples", num_samples, 1)
    temperature = number("temperature", temperature, lambda t: t >= 0, " of at least 0")
    integer("top_k", top_k, 0)
    number("top_p", top_p, lambda p: 0 < p <= 1, " above 0 and at most 1")
    number("min_p", min_p, lambda p: 0 <= p <= 1, " from 0 to 1")
    if temperature == 0:
        temperature, top_k = 1.0, 1
    rules = TokenRules(end, min_length, max_length, suppressed, prefix, batch)
    shape = (batch, num_samples)
    # all drawn at once, so that they do not depend on which sentences have left the batch
    uniforms = np.random.default_rng(seed).random((*shape, max_length + 1))
    written = np.full((*shape, max_length + 1), end, np.int32)
    gains, is_open = np.zeros((*shape, max_length + 1)), np.ones(shape, bool)
    sentences, states = np.arange(batch), repeated(states, num_samples)
    tokens = np.broadcast_to(np.reshape(np.asarray(start), (-1, 1)), shape).astype(np.int32)
    for t in range(max_length + 1):
        rows = np.flatnonzero(is_open[sentences].any(axis=1))
        if len(rows) <= FEW * len(sentences):
            sentences, tokens = sentences[rows], tokens[rows]
            states, context = kept(states, rows), kept(context, rows)
        if not len(sentences):
            break
        here = np.arange(num_samples, dtype=np.int32)[:, None]
        ancestry = np.broadcast_to(here, (len(sentences), num_samples, t + 1))
        tokens, ancestry = (like_states(a, states, context) for a in (tokens, ancestry))
        logits, states, context, *_ = step(tokens, states, context, ancestry)
        logits = to_numpy(logits).astype(np.float64)
        open_here = is_open[sentences]
        prefix = None if rules.prefix is None else rules.prefix[sentences]
        tokens, gained = _draw(
            np.where(open_here[..., None], logits, 0),
            rules.allowed(NUMPY, t, prefix, logits.shape[2]),
            uniforms[sentences, :, t],
            (temperature, top_k, top_p, min_p),
        )
        if np.isnan(gained).any():
            raise ValueError(
                f"step returned logits of NaN or +inf, of sentence "
                f"{sentences[np.isnan(gained).any(axis=1)][0]} in step {t}"
            )
        tokens = np.where(open_here & (gained > -np.inf), tokens, end).astype(np.int32)
        gains[sentences, :, t] = np.where(open_here, gained, 0)
        written[sentences, :, t] = tokens
        is_open[sentences] = open_here & (tokens != end)
    log_p = gains.sum(axis=2)
    lengths = np.where(log_p > -np.inf, (written != end).sum(axis=2), 0).astype(np.int32)
    longest = lengths.max(initial=0)
    is_one = np.arange(longest) < lengths[..., None]
    tokens = np.where(is_one, written[..., :longest], 0)
    gains = np.where(log_p[..., None] > -np.inf, gains, 0)[..., : longest + 1]
    return Hypotheses(tokens, lengths, log_p, log_p.copy(), gains)


def _draw(logits, allowed, uniforms, how):
    """A token for each (row, sample), and its log-likelihood by the model, NaN if undefined."""
    temperature, top_k, top_p, min_p = how
    rows, samples, vocabulary = logits.shape
    is_possible = np.ones((1, 1, vocabulary), bool) if allowed is None else allowed[:, None]
    scaled = np.where(is_possible, logits / temperature, -np.inf)
    scores, order = _ordered(scaled.reshape(-1, vocabulary), top_k, top_p)
    best = scores.max(axis=1, keepdims=True)  # NaN if any score is
    with np.errstate(invalid="ignore"):
        p = np.exp(scores - np.where(np.isneginf(best), 0, best))
    p = p / np.where(p.sum(axis=1) > 0, p.sum(axis=1), 1)[:, None]
    before = p.cumsum(axis=1) - p if top_p < 1 else np.zeros((1, 1))
    p = np.where((before < top_p) & (p >= min_p * p.max(axis=1, keepdims=True)), p, 0)
    sums = p.cumsum(axis=1)
    place = (sums <= uniforms.reshape(-1, 1) * sums[:, -1:]).sum(axis=1)
    last = p.shape[1] - 1 - np.argmax(p[:, ::-1] > 0, axis=1)  # place is beyond it by rounding only
    place = np.minimum(place, last)[:, None]
    tokens = np.take_along_axis(order, place, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        peak = logits.max(axis=-1, keepdims=True)
        log_p = logits - peak - np.log(np.exp(logits - peak).sum(axis=-1, keepdims=True))
    gained = np.take_along_axis(log_p.reshape(-1, vocabulary), tokens, axis=1)
    gained = np.where(np.isneginf(best), -np.inf, gained)
    gained = np.where(best < np.inf, gained, np.nan)
    return tokens.reshape(rows, samples), gained.reshape(rows, samples)


def _ordered(logits, top_k, top_p):
    """Scores and their tokens; sorted where top_k or top_p need it, in a tie the lowest first."""
    rows, vocabulary = logits.shape
    if 0 < top_k < vocabulary:
        scores, order, _ = select(logits[:, None], np.zeros((rows, 1)), top_k)
        return scores, order
    if top_p == 1:
        return logits, np.broadcast_to(np.arange(vocabulary), logits.shape)
    order = np.argsort(-logits, axis=1, kind="stable")
    return np.take_along_axis(logits, order, axis=1), order
