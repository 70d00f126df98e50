"""Entropy, cross-entropy and divergence of chains, and the number of legal sequences.

Expectations under p are taken of scores relative to those of y*, the best sequence of p, so that
the terms are small and float32 keeps its digits: docs/crf.md has the derivation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras._arrays import array_functions
from fastkeras.crf.arguments import as_array, chain_of, engine_of, for_each_step, like
from fastkeras.crf.likelihoods import gradients_by, weights_of

if TYPE_CHECKING:
    from fastkeras.crf.chain import Gradients, LowRank
    from fastkeras.typing import ArrayLike, Tensor


def entropy(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Entropy of the distribution over tag sequences, in nats.

        H = −Σ_y p(y) log p(y) = log Z − Σ_y p(y) score(y)

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.

    Returns:
        H, shape (batch,), dtype of `emissions`: between 0 and `log_count`; 0 where no step is valid
        or no sequence is possible. Differentiable in a tensor engine, but on GPUs only by
        `engine="keras"`.

    Raises:
        ValueError, ImportError: as `log_partition`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import entropy
        >>> entropy(np.zeros((1, 3, 4)), np.zeros((4, 4))).round(6)  # log of 4³ equal sequences
        array([4.158883])

    Source: Mann & McCallum, 2007, "Efficient computation of entropy gradient for semi-supervised
        conditional random fields".
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    functions = engine_of(chain, engine)
    if hasattr(functions, "entropy"):
        return like(functions.entropy(chain), emissions)
    return like(cross_entropy_of(functions, chain, chain), emissions)


def entropy_and_gradients(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    engine: str | None = None,
) -> tuple[Tensor, Gradients]:
    """The entropy and, in the same call, the gradient of its weighted sum.

    For training loops without automatic differentiation. The gradient is
        ∂H / ∂x[t, j] = −Σ_{y: y_t = j} p(y) (log p(y) + H),
    likewise with counts of pairs for the transitions, and zero where no sequence is possible.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.
        weights: float, shape (batch,): the gradients are those of Σ weights · H. None: ones.

    Returns:
        H, shape (batch,), not weighted, and `Gradients(emissions, transitions, start_transitions,
        end_transitions)`, of the shapes of the arguments.

    Raises:
        ValueError: as `log_partition`; for weights of another shape or dtype; for an engine that
            has no gradient of its own, such as `keras`, which differentiates `entropy`.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import entropy_and_gradients
        >>> scores = np.log([[[0.8, 0.2]]])
        >>> h, gradients = entropy_and_gradients(scores, np.zeros((2, 2)))
        >>> h.round(6), gradients.emissions.round(6)  # p log(0.2 / 0.8) (1 − p) of the first
        (array([0.500402]), array([[[-0.221807,  0.221807]]]))

    Source: Mann & McCallum, 2007, "Efficient computation of entropy gradient for semi-supervised
        conditional random fields".
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    weights = weights_of(weights, chain)
    functions = engine_of(chain, engine, "entropy_and_gradients", "the gradient of an entropy")
    value, gradients = functions.entropy_and_gradients(chain, weights)
    return like(value, emissions), gradients_by(transitions, gradients, emissions)


def cross_entropy(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    other_emissions: ArrayLike,
    other_transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    other_start_transitions: ArrayLike | None = None,
    other_end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Cross-entropy −Σ_y p(y) log q(y) of two chains over the same steps and tags, in nats.

    The loss of distillation: p is the teacher, q, the other chain, the student.

    Args:
        emissions, transitions, start_transitions, end_transitions: of p, as in `log_partition`.
        other_emissions, other_transitions, other_start_transitions, other_end_transitions: of q, in
            the dtype of p's; the transitions may be of another kind, as in `log_partition`.
        lengths, mask, engine: as in `log_partition`.

    Returns:
        Shape (batch,), dtype of `emissions`; +inf where q forbids what p allows; 0 where no step is
        valid or p has no possible sequence. Differentiable with respect to q by any tensor engine,
        with the gradient q(y_t = j) − p(y_t = j); with respect to p by `engine="keras"`.

    Raises:
        ValueError, ImportError: as `log_partition`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import cross_entropy
        >>> teacher, student = np.array([[[0.0, -np.inf]]]), np.zeros((1, 1, 2))
        >>> cross_entropy(teacher, np.zeros((2, 2)), student, np.zeros((2, 2))).round(6)
        array([0.693147])

    Source: Wang, Jiang, Bach, Wang, Huang & Tu, 2020, "Structure-level knowledge distillation for
        multilingual sequence labeling".
    """
    p = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    p, q = _with_other(
        p, other_emissions, other_transitions, other_start_transitions, other_end_transitions
    )
    return like(cross_entropy_of(engine_of(p, engine), p, q), emissions)


def kl_divergence(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    other_emissions: ArrayLike,
    other_transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    other_start_transitions: ArrayLike | None = None,
    other_end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Kullback-Leibler divergence Σ_y p(y) log(p(y) / q(y)) of two chains, in nats.

    Args:
        emissions, transitions, start_transitions, end_transitions, other_emissions,
            other_transitions, other_start_transitions, other_end_transitions, lengths, mask,
            engine: as in `cross_entropy`.

    Returns:
        Shape (batch,), dtype of `emissions`, never negative; otherwise as `cross_entropy`.

    Raises:
        ValueError, ImportError: as `log_partition`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import kl_divergence
        >>> p, q, zeros = np.array([[[0.0, -np.inf]]]), np.zeros((1, 1, 2)), np.zeros((2, 2))
        >>> kl_divergence(p, zeros, q, zeros).round(6), kl_divergence(q, zeros, p, zeros)
        (array([0.693147]), array([inf]))

    Source: Kullback & Leibler, 1951, "On information and sufficiency".
    """
    p = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    p, q = _with_other(
        p, other_emissions, other_transitions, other_start_transitions, other_end_transitions
    )
    functions, array = engine_of(p, engine), array_functions(p.emissions)
    divergence = cross_entropy_of(functions, p, q) - cross_entropy_of(functions, p, p)
    return like(_not_negative(array, divergence), emissions)


def log_count(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Logarithm of the number of sequences that no score of −inf forbids.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`; it only matters which scores are −inf.

    Returns:
        Shape (batch,), dtype of `emissions`; −inf if there is none, 0 where no step is valid.

    Raises:
        ValueError, ImportError: as `log_partition`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import constraints, log_count
        >>> rules = constraints.allowed("BIO", ["O", "B", "I"])
        >>> log_n = log_count(np.zeros((1, 3, 3)), **rules.apply(np.zeros((3, 3))))
        >>> round(float(np.exp(log_n[0])))
        13

    Source: log Z of a chain of equal scores; Goodman, 1999, "Semiring parsing".
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    functions = engine_of(chain, engine)
    return like(functions.log_partition(uniform_over_possible(chain)), emissions)


def uniform_over_possible(chain):
    """The chain in which every possible sequence has the score 0; without gradients."""
    array = array_functions(chain.emissions)

    def equal(scores):
        possible = array.where(scores == -np.inf, -np.inf, array.zeros_like(scores))
        return array.stop_gradient(array.where(scores < np.inf, possible, np.nan))

    return chain.with_scores(equal)


def _with_other(chain, emissions, transitions, start_transitions, end_transitions):
    """Both chains; the second is over the same steps, in the same dtype.

    If its transitions vary, so do those of the first: then there are marginals of each pair.
    """
    array = array_functions(chain.emissions)
    emissions = array.cast(array.convert_to_tensor(emissions), chain.emissions.dtype)
    shape, wanted = tuple(emissions.shape), tuple(chain.emissions.shape)
    if len(shape) != 3 or any(
        got != want and None not in (got, want) for got, want in zip(shape, wanted, strict=True)
    ):
        raise ValueError(f"other_emissions must have the shape of emissions, {wanted}, got {shape}")
    other = chain_of(
        emissions,
        transitions,
        start_transitions=start_transitions,
        end_transitions=end_transitions,
        prefix="other_",
    )
    if other.varies and not chain.varies:
        chain = chain._replace(transitions=for_each_step(chain.transitions, chain.emissions))
    return chain, other._replace(lengths=chain.lengths, mask=chain.mask)


def cross_entropy_of(functions, p, q):
    """−log q(y*) − Σ_y p(y) (score_q(y) − score_q(y*)), with y* the best sequence of p."""
    array = array_functions(p.emissions)
    tags, score, unary, counts = (
        as_array(result, p.emissions) for result in (*functions.viterbi(p), *functions.marginals(p))
    )
    of_best = as_array(functions.log_likelihood(q, tags), q.emissions)

    if p.varies and not q.varies:
        counts = array.sum(counts, axis=1)
    num_tags = array.shape(q.emissions)[2]
    valid = q.valid_steps()
    rank = array.cumsum(array.where(valid, 1, 0), axis=1)
    first, last = valid & (rank == 1), valid & (rank == rank[:, -1:])
    x = q.emissions + array.where(first[..., None], q.start_transitions, 0)
    x = x + array.where(last[..., None], q.end_transitions, 0)

    of_best_tags = (tags[..., None] == array.arange(num_tags, dtype="int32")) & valid[..., None]
    one_hot = array.where(of_best_tags, array.ones_like(unary), 0)
    pairs_of_best = _pairs_of(array, one_hot, valid, rank, q.varies)
    forbidden = of_best == -np.inf
    expectation = 0
    for weights, best, scores in (
        (unary, one_hot, x),
        (counts, pairs_of_best, q.transitions),
    ):
        of_a_sequence = tuple(range(1, len(weights.shape)))
        finite = array.where(scores == -np.inf, 0, scores)
        unused = ~(finite < np.inf) & (weights == best)  # NaN or +inf with a factor of 0
        finite = array.where(unused, 0, finite)
        expectation = expectation + array.sum((weights - best) * finite, axis=of_a_sequence)
        forbidden = forbidden | array.any((weights > 0) & (scores == -np.inf), axis=of_a_sequence)
    value = _not_negative(array, -array.where(forbidden, 0, of_best) - expectation)
    return array.where(score == -np.inf, 0, array.where(forbidden, np.inf, value))


def _pairs_of(array, one_hot, valid, rank, of_each_step):
    """How often each tag follows each other tag, (batch, num_tags, num_tags).

    With `of_each_step`, for each step and the valid step before it, (batch, steps − 1, ·, ·).
    """
    steps = array.shape(valid)[1]
    t = array.arange(steps)
    order = array.argsort(array.where(valid, t, t + steps), axis=1)  # the valid steps to the front
    previous = array.take_along_axis(order, array.maximum(rank - 2, 0), axis=1)
    before = array.take_along_axis(one_hot, previous[..., None], axis=1)
    before = array.where((valid & (rank > 1))[..., None], before, 0)
    if of_each_step:
        return (before[..., :, None] * one_hot[..., None, :])[:, 1:]
    return array.matmul(array.transpose(before, (0, 2, 1)), one_hot)


def _not_negative(array, value):
    """The value, 0 where rounding made it negative, without a change of its gradient."""
    below = array.where(value < 0, value, 0)
    return value - array.stop_gradient(below)
