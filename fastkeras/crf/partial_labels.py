"""The likelihood of partial and ambiguous labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras._arrays import array_functions
from fastkeras.crf.arguments import as_array, chain_of, engine_of, like
from fastkeras.crf.constraints import restrict

if TYPE_CHECKING:
    from fastkeras.crf.chain import LowRank
    from fastkeras.typing import ArrayLike, Tensor


def log_likelihood_of_sets(
    emissions: ArrayLike,
    allowed: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Logarithm of the probability that every step has one of the tags that are allowed there.

    The loss for labels that are unknown (all tags allowed) or ambiguous (some tags allowed) at some
    steps: it sums over all sequences that they allow. With y* the best of these sequences S,
        log p(S) = log p(y*) − log p(y* | S),
    two likelihoods near 0, while log Z(S) − log Z would be a small difference of large numbers.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.
        allowed: bool, shape (batch, steps, num_tags), or one that broadcasts to it; not read at
            steps that are not valid. `constraints.bitmap_of_tags` makes it from partly known tags.

    Returns:
        log p, shape (batch,), dtype of `emissions`, never above 0; −inf, with gradients of zero,
        where no allowed sequence is possible; 0 where no step is valid. Differentiable in a tensor
        engine, with the gradient p(y_t = j | S) − p(y_t = j).

    Raises:
        ValueError: as `log_partition`, and for `allowed` of another dtype or shape.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import log_likelihood_of_sets
        >>> allowed = np.array([[[True, False, False], [True, True, False]]])
        >>> log_p = log_likelihood_of_sets(np.zeros((1, 2, 3)), allowed, np.zeros((3, 3)))
        >>> float(np.exp(log_p[0]).round(6))  # 1 · 2 of 3² equal sequences
        0.222222

    Source: Tsuboi, Kashima, Mori, Oda & Matsumoto, 2008, "Training conditional random fields using
        incomplete annotations".
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    array, functions = array_functions(chain.emissions), engine_of(chain, engine)
    inside = chain._replace(emissions=restrict(chain.emissions, allowed))

    best, _ = functions.viterbi(inside.with_scores(array.stop_gradient))
    of_best = as_array(functions.log_likelihood(chain, best), chain.emissions)
    share = as_array(functions.log_likelihood(inside, best), chain.emissions)
    possible = share != -np.inf
    # −inf − (−inf) must not be computed for an impossible set, not even in a branch not taken
    value = of_best - array.where(possible, share, 0)
    value = value - array.stop_gradient(array.where(value > 0, value, 0))  # above 0 by rounding
    counts = possible | (value != value)  # a NaN in the chain shows, whatever the sets
    return like(array.where(counts, value, -np.inf), emissions)
