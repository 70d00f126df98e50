"""The step of a beam search that looks at every token, to find the best continuations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkeras._engines import engine_of_family
from fastkeras.seq2seq.arguments import integer, step_of

if TYPE_CHECKING:
    from fastkeras.typing import ArrayLike, Tensor


def select(
    logits: ArrayLike,
    scores: ArrayLike,
    num_candidates: int | None = None,
    *,
    history: ArrayLike | None = None,
    allowed: ArrayLike | None = None,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    engine: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations, by one token each, of the hypotheses of each sentence.

    A hypothesis with score s, continued by the token v, has the score s + log softmax(logits)[v].
    Ruling out tokens does not raise the probability of others: scores remain the log-likelihoods of
    the model.

    Args:
        logits: floats, shape (batch, beams, vocabulary): the model's scores of the next token of
            each hypothesis. −inf forbids a token.
        scores: floats, shape (batch, beams): the scores of the hypotheses so far. −inf: there is no
            such hypothesis, and its logits do not matter. In a first step, when all hypotheses are
            equal, give all but one of them −inf.
        num_candidates: how many continuations to return for each sentence, at least 1; by default
            twice the beams, so that enough remain if one of each beam ends.
        history: integers, shape (batch, beams, steps): the tokens of each hypothesis so far, in
            order; a negative number ends them.
        allowed: booleans, shape (vocabulary,), (batch, vocabulary) or (batch, beams, vocabulary):
            the tokens that may come next; None for all.
        repetition_penalty: above 0; the log probability of a token that occurs in the history is
            multiplied by it. Above 1 it makes repetitions rarer; 1 has no effect.
        no_repeat_ngram: a number n; tokens that would repeat an n-gram of the history are ruled
            out. 0 has no effect.
        engine: a name in `fastkeras.engines("seq2seq")`; None for the fastest.

    Returns:
        scores: shape (batch, num_candidates), float64 if the logits are, else float32; best first,
            −inf where there are no more continuations. All are NaN for a sentence if a score or
            logit of one of its hypotheses is NaN or +inf.
        tokens: int32, shape (batch, num_candidates); 0 where the score is −inf or NaN.
        parents: int32, the same shape: which hypothesis is continued. In a tie the lower parent
            comes first, then the lower token (except on torch with engine="keras", whose `topk`
            leaves ties open).

    Raises:
        ValueError: an argument of a wrong shape, dtype or range.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.seq2seq import select
        >>> probabilities = np.array([[[0.5, 0.4, 0.1], [0.1, 0.1, 0.8]]])
        >>> scores, tokens, parents = select(np.log(probabilities), np.log([[0.5, 0.4]]), 3)
        >>> np.exp(scores).round(2), tokens.tolist(), parents.tolist()
        (array([[0.32, 0.25, 0.2 ]]), [[2, 0, 1]], [[1, 0, 0]])

    Source: Sutskever, Vinyals & Le, 2014, "Sequence to sequence learning with neural networks",
    section 3.2; the penalty is that of Keskar et al., 2019, "CTRL", section 4.1, on log
    probabilities; the n-grams are those of Paulus, Xiong & Socher, 2017, "A deep reinforced model
    for abstractive summarization", section 2.5.
    """
    step = step_of(logits, scores, history, allowed, repetition_penalty, no_repeat_ngram)
    if num_candidates is None:
        num_candidates = 2 * step.logits.shape[1]
    num_candidates = integer("num_candidates", num_candidates, 1)
    return engine_of_family("seq2seq", step.family, engine).select(step, num_candidates)
