"""Log Z, scores, and likelihoods with their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkeras._arrays import array_functions, contiguous, dtype_of
from fastkeras.crf.arguments import chain_of, engine_of, like, rank_of, tags_of
from fastkeras.crf.chain import Gradients, LowRank

if TYPE_CHECKING:
    from fastkeras.typing import ArrayLike, Tensor


def log_partition(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    checkpoint: bool = False,
    engine: str | None = None,
) -> Tensor:
    """Log-sum-exp of the scores of all tag sequences.

    With x the emissions, A the transitions, s and f the start and end transitions, over all
    sequences y of the n valid steps,
        log Z = log Σ_y exp( s[y_1] + Σ_t x[t, y_t] + Σ_t A[y_{t-1}, y_t] + f[y_n] ),
    by the forward recursion: O(n · num_tags²) time.

    Args:
        emissions: float, shape (batch, steps, num_tags). Scores in nats, not probabilities; −inf
            forbids a tag. float16 and bfloat16 are computed in float32, and rounded once, at the
            end; a result beyond 65,504 is infinite in float16.
        transitions: float, shape (num_tags, num_tags); [i, j] scores i → j; −inf forbids it. Or
            (batch, steps − 1, num_tags, num_tags), or (steps − 1, num_tags, num_tags) for all
            sequences: […, t − 1, i, j] scores i → j into step t, from the valid step before. The
            engines `numba`, `cupy`, `jax_cuda` and `torch_cuda` do not take such transitions. Or a
            `LowRank`.
        lengths: integers, shape (batch,), 0 ≤ lengths ≤ steps. Nothing at or past a sequence's
            length is read. None: all steps are valid.
        mask: bool, shape (batch, steps), False at masked steps. The chain skips these, at either
            end or in the middle. With `lengths` as well, a step has to be valid in both.
        start_transitions: float, shape (num_tags,), added at each sequence's first valid step.
        end_transitions: float, shape (num_tags,), added at its last valid step.
        checkpoint: for long chains in the `keras` engine: whether the gradient may compute the
            recursion a second time, so that only about √steps of its rows are kept instead of all.
            The other engines ignore it, and keep two copies of the emissions.
        engine: a name in `fastkeras.engines("crf")`, or None for the fastest that is ready and
            takes the array.

    Returns:
        log Z, shape (batch,), dtype of `emissions`; −inf where no sequence is possible, 0 where no
        step is valid. NaN where a score that the sequence uses is NaN or +inf; everything computed
        from log Z is then NaN as well.

    Raises:
        ValueError: a shape, dtype or value is out of range; the message names the argument, what
            was given and what is allowed.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import log_partition
        >>> log_partition(np.zeros((1, 3, 4)), np.zeros((4, 4)))  # log of 4³ sequences
        array([4.15888308])

    Source: Lafferty, McCallum & Pereira, 2001, "Conditional random fields", section 3.
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    functions = engine_of(chain, engine, checkpoint=checkpoint)
    return like(functions.log_partition(chain), emissions)


def sequence_score(
    emissions: ArrayLike,
    tags: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Score of one given tag sequence: its emissions and transitions, start and end included.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.
        tags: integers in 0..num_tags − 1 at valid steps, shape (batch, steps). Other steps may hold
            anything, −100 for instance; they are not read.

    Returns:
        The score, shape (batch,), dtype of `emissions`.

    Raises:
        ValueError: as `log_partition`, and for a tag out of range at a valid step. In a graph of
            the `keras` engine, which cannot raise, the result of that sequence is NaN instead.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import sequence_score
        >>> emissions = np.array([[[1.0, 2.0], [3.0, 4.0]]])
        >>> sequence_score(emissions, np.array([[1, 0]]), np.array([[0.0, 0.0], [10.0, 0.0]]))
        array([15.])

    Source: Lafferty, McCallum & Pereira, 2001, "Conditional random fields", section 3.
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    tags = tags_of(chain, tags)
    return like(engine_of(chain, engine).sequence_score(chain, tags), emissions)


def log_likelihood(
    emissions: ArrayLike,
    tags: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    checkpoint: bool = False,
    engine: str | None = None,
) -> Tensor:
    """Logarithm of the probability of one given tag sequence; its negative mean is the loss.

    log p(y) = sequence_score(y) − log_partition, subtracted before either is rounded to the dtype
    of the emissions, so that a long, almost certain sequence keeps its digits. In a tensor engine
    it is differentiable with respect to all scores.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, checkpoint,
            engine: as in `log_partition`.
        tags: as in `sequence_score`.

    Returns:
        log p, shape (batch,), dtype of `emissions`, never above 0; −inf, with gradients of zero,
        for an impossible sequence; 0 where no step is valid.

    Raises:
        ValueError, ImportError: as `sequence_score`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import log_likelihood
        >>> p = log_likelihood(np.zeros((1, 2, 3)), np.array([[0, 2]]), np.zeros((3, 3)))
        >>> float(np.exp(p[0]).round(6))  # one of 3² equal sequences
        0.111111

    Source: Lafferty, McCallum & Pereira, 2001, "Conditional random fields", section 3.
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    functions = engine_of(chain, engine, checkpoint=checkpoint)
    return like(functions.log_likelihood(chain, tags_of(chain, tags)), emissions)


def log_likelihood_and_gradients(
    emissions: ArrayLike,
    tags: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    engine: str | None = None,
) -> tuple[Tensor, Gradients]:
    """The log-likelihood and, in the same call, the gradient of its weighted sum.

    For training loops without automatic differentiation. The gradient is
        ∂ log p(y) / ∂x[t, j] = [y_t = j] − p(y_t = j),
    likewise with counts of pairs for the transitions, and zero for an impossible sequence.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.
        tags: as in `sequence_score`.
        weights: float, shape (batch,): the gradients are those of Σ weights · log p. None: ones.

    Returns:
        log p, shape (batch,), not weighted, and `Gradients(emissions, transitions,
        start_transitions, end_transitions)`, of the shapes of the arguments.

    Raises:
        ValueError, ImportError: as `sequence_score`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import log_likelihood_and_gradients
        >>> _, gradients = log_likelihood_and_gradients(
        ...     np.zeros((1, 1, 4)), np.array([[2]]), np.zeros((4, 4))
        ... )
        >>> gradients.emissions
        array([[[-0.25, -0.25,  0.75, -0.25]]])

    Source: Lafferty, McCallum & Pereira, 2001, "Conditional random fields", section 3.
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    arguments = tags_of(chain, tags), weights_of(weights, chain)
    functions = engine_of(chain, engine)
    likelihood, gradients = functions.log_likelihood_and_gradients(chain, *arguments)
    return like(likelihood, emissions), gradients_by(transitions, gradients, emissions)


def gradients_by(transitions, gradients, emissions):
    """The gradients of a chain as those by the arguments that it was made of."""
    if isinstance(transitions, LowRank):
        factors = transitions.gradients(gradients.transitions)
        gradients = gradients._replace(transitions=factors)
    if rank_of(transitions) == 3:  # shared by all sequences
        of_sequences = gradients.transitions
        summed = array_functions(of_sequences).sum(of_sequences, axis=0)
        gradients = gradients._replace(transitions=summed)
    return Gradients._make(
        LowRank(*(like(factor, emissions) for factor in g))
        if isinstance(g, LowRank)
        else like(g, emissions)
        for g in gradients
    )


def weights_of(weights, chain):
    """The checked weights of the sequences, (batch,), in the dtype of the chain."""
    array, batch = array_functions(chain.emissions), chain.emissions.shape[0]
    if weights is None:
        return array.ones(array.shape(chain.emissions)[:1], chain.emissions.dtype)
    weights = array.convert_to_tensor(weights)
    dtype, shape = dtype_of(weights), tuple(weights.shape)
    fits = len(shape) == 1 and (shape[0] == batch or None in (shape[0], batch))
    if not fits or not dtype.startswith(("float", "bfloat", "int", "uint")):
        raise ValueError(
            f"weights must be numbers of shape (batch,) = ({batch},), got {dtype} of shape {shape}"
        )
    return contiguous(array.cast(weights, chain.emissions.dtype))
