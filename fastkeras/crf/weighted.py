"""Likelihoods with weights for tags or steps, and likelihoods of smoothed labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras._arrays import array_functions
from fastkeras.crf.arguments import as_array, chain_of, engine_of, like, tags_of
from fastkeras.crf.information import cross_entropy_of, uniform_over_possible
from fastkeras.training.arguments import share

if TYPE_CHECKING:
    from fastkeras.crf.chain import LowRank
    from fastkeras.typing import ArrayLike, Tensor


def weighted_log_likelihood(
    emissions: ArrayLike,
    tags: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    weights: ArrayLike,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Log-likelihood of a tag sequence in which some tags, or some steps, count more.

    The likelihood is a product over the steps, and each factor has a weight:
        Σ_t w_t · log p(y_t | y_1 … y_{t−1}),
    with w_t the weight of the step, or of its tag; equal to `log_likelihood` if all are 1. Useful
    for rare tags: a weight of 5 has the effect of five examples of that decision.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.
        tags: as in `sequence_score`.
        weights: float, finite and not below 0, shape (num_tags,), one for each tag, or (batch,
            steps), of which only those of valid steps count. Checked in NumPy arrays; in tensors, a
            weight that is not finite makes the likelihood of its sequence NaN.

    Returns:
        Shape (batch,), dtype of `emissions`, never above 0; −inf, with gradients of zero, for an
        impossible sequence, whatever its weights. Differentiable in a tensor engine, by the weights
        too; `keras` keeps num_tags² numbers for each step.

    Raises:
        ValueError: as `sequence_score`, and for weights of another shape, dtype or range.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import weighted_log_likelihood
        >>> emissions, tags = np.log([[[0.5, 0.5], [0.2, 0.8]]]), np.array([[0, 1]])
        >>> weights = np.array([1.0, 3.0])
        >>> p = weighted_log_likelihood(emissions, tags, np.zeros((2, 2)), weights=weights)
        >>> float(np.exp(p[0]).round(6))  # 0.5 · 0.8³
        0.256

    Source: the class weights of de Lannoy, François, Delbeke & Verleysen, 2012, "Weighted
        conditional random fields for supervised interpatient heartbeat classification", but applied
        to conditional probabilities, so that no term is positive.
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    tags = tags_of(chain, tags)
    return like(weighted_likelihood_of(chain, tags, weights, engine), emissions)


def smoothed_log_likelihood(
    emissions: ArrayLike,
    tags: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    label_smoothing: float,
    weights: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Log-likelihood of smoothed labels: a share ε is spread over all possible sequences.

        (1 − ε) log p(y) + ε Σ_y' u(y') log p(y')
    with u uniform over the sequences that no score of −inf forbids: the label smoothing of a
    softmax whose classes are whole sequences.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.
        tags: as in `sequence_score`.
        label_smoothing: ε, 0 ≤ ε < 1; 0 for none.
        weights: for log p(y), as in `weighted_log_likelihood`, or None.

    Returns:
        Shape (batch,), dtype of `emissions`, never above 0; −inf for an impossible sequence.
        Differentiable in a tensor engine. Besides the likelihoods it computes the marginals and a
        best path of u, which takes about three times as long as `log_likelihood`.

    Raises:
        ValueError: as `sequence_score`, and for ε out of range.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import smoothed_log_likelihood
        >>> emissions, tags = np.log([[[0.9, 0.1]]]), np.array([[0]])
        >>> p = smoothed_log_likelihood(emissions, tags, np.zeros((2, 2)), label_smoothing=0.2)
        >>> float(np.exp(p[0]).round(6)) == round(0.9**0.9 * 0.1**0.1, 6)
        True

    Source: Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, 2016, "Rethinking the inception architecture
        for computer vision", section 7.
    """
    label_smoothing = share("label_smoothing", label_smoothing)
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    tags = tags_of(chain, tags)
    return like(smoothed_likelihood_of(chain, tags, label_smoothing, weights, engine), emissions)


def weighted_likelihood_of(chain, tags, weights, engine=None):
    """`weighted_log_likelihood` of a chain, in its dtype."""
    needs = "weighted_log_likelihood", "weights of steps"
    functions = engine_of(chain, engine, *needs)
    return functions.weighted_log_likelihood(chain, tags, weights_of_steps(weights, chain, tags))


def smoothed_likelihood_of(chain, tags, label_smoothing, weights=None, engine=None):
    """`smoothed_log_likelihood` of a chain, in its dtype."""
    functions = engine_of(chain, engine)
    if weights is None:
        value = functions.log_likelihood(chain, tags)
    else:
        value = weighted_likelihood_of(chain, tags, weights, engine)
    spread = cross_entropy_of(functions, uniform_over_possible(chain), chain)
    value = as_array(value, chain.emissions)
    return (1 - label_smoothing) * value - label_smoothing * spread


def weights_of_steps(weights, chain, tags):
    """The weight of each step, (batch, steps), in the dtype of the emissions."""
    array = array_functions(chain.emissions)
    weights = array.cast(array.convert_to_tensor(weights), chain.emissions.dtype)
    *batch_and_steps, num_tags = chain.emissions.shape
    shape = tuple(weights.shape)
    if shape == (num_tags,):
        _check(weights, np.True_)
        return array.take(weights, array.clip(tags, 0, num_tags - 1), axis=0)
    if len(shape) != 2 or any(
        None not in (got, want) and got != want
        for got, want in zip(shape, batch_and_steps, strict=True)
    ):
        raise ValueError(
            f"weights must have shape (num_tags,) = ({num_tags},) or (batch, steps) = "
            f"{tuple(batch_and_steps)}, got {shape}"
        )
    if chain.family == "numpy":
        _check(weights, chain.valid_steps())
    return weights


def _check(weights, valid):
    """Raise ValueError for weights of NumPy arrays that are out of range."""
    if not isinstance(weights, np.ndarray):
        return
    wrong = valid & ~((weights >= 0) & (weights < np.inf))  # NaN too
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(f"weights must be finite and not below 0, got {weights[at]} at {[*at]}")
