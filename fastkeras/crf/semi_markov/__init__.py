"""Semi-Markov chains: a sequence is cut into segments, and each segment has a tag.

With segments k = 1 … m, of tag y_k and length l_k, over the steps of an input, a segmentation
scores
    s[y_1] + Σ_k (Σ_t in k x[t, y_k] + d[l_k, y_k]) + Σ_k A[y_{k−1}, y_k] + f[y_m]
with x the emissions, d the durations, and A the transitions from segment to segment, not from step
to step. The engines are those of the linear chain, except `numba` and those of GPUs.

Source: Sarawagi & Cohen, 2004, "Semi-Markov conditional random fields for information extraction".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkeras._arrays import array_functions, contiguous
from fastkeras._engines import engine_of_family
from fastkeras.crf.arguments import chain_of, like
from fastkeras.crf.semi_markov.labels import segment_labels, segments_of

if TYPE_CHECKING:
    from fastkeras.typing import ArrayLike, Tensor


__all__ = ["log_partition", "marginals", "segment_labels", "segments_of", "viterbi"]


def log_partition(
    emissions: ArrayLike,
    transitions: ArrayLike,
    durations: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Log-sum-exp of the scores of all segmentations.

    Takes O(steps · num_tags · (num_tags + max_length)) time.

    Args:
        emissions: float, shape (batch, steps, num_tags): the score of each step in a segment of
            each tag. float16 and bfloat16 are computed in float32.
        transitions: float, shape (num_tags, num_tags); [i, j] scores a segment of tag j right after
            one of tag i. −inf on the diagonal forbids two segments of the same tag in a row.
        durations: float, shape (max_length, num_tags); [l − 1, j] scores that a segment of tag j
            has l steps; −inf forbids it. No segment is longer than max_length.
        lengths: integers, shape (batch,), 0 ≤ lengths ≤ steps. None: all steps are valid.
        start_transitions, end_transitions: float, shape (num_tags,), of the first and last segment.
        engine: a name in `fastkeras.engines("crf.semi_markov")`, or None for the fastest that is
            ready and takes the array.

    Returns:
        log Z, shape (batch,), dtype of `emissions`; −inf where no segmentation is possible, 0 where
        no step is valid, NaN where a score that the sequence uses is NaN or +inf. Differentiable
        by the tensor engines, at any order by `keras`.

    Raises:
        ValueError: a shape, dtype or value is out of range, or the engine does not take the array.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import semi_markov
        >>> zeros = np.zeros((1, 4, 1)), np.zeros((1, 1)), np.zeros((3, 1))
        >>> float(np.exp(semi_markov.log_partition(*zeros)[0]).round(6))  # 2³, but for 4 in one
        7.0

    Source: Sarawagi & Cohen, 2004.
    """
    functions, *chain = _checked(
        emissions, transitions, durations, lengths, start_transitions, end_transitions, engine
    )
    return like(functions.log_partition(*chain), emissions)


def marginals(
    emissions: ArrayLike,
    transitions: ArrayLike,
    durations: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Posterior probabilities of tags and segments, and expected numbers of transitions.

    The `keras` engine computes them from sums over the whole sequence, so in float32 they have the
    rounding error of log Z.

    Args:
        emissions, transitions, durations, lengths, start_transitions, end_transitions, engine: as
            in `log_partition`.

    Returns:
        unary: shape (batch, steps, num_tags): that the step is in a segment of this tag.
        segments: shape (batch, steps, max_length, num_tags); [b, t, l − 1, j]: that a segment of
            tag j and length l begins at step t.
        counts: shape (batch, num_tags, num_tags): the expected number of each transition.
        All are 0 past the length, and where no segmentation is possible.

    Raises:
        ValueError, ImportError: as `log_partition`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import semi_markov
        >>> zeros = np.zeros((1, 2, 1)), np.zeros((1, 1)), np.zeros((2, 1))
        >>> unary, segments, counts = semi_markov.marginals(*zeros)  # one segment, or two
        >>> segments[0, :, :, 0].round(6), counts.round(6)
        (array([[0.5, 0.5],
               [0.5, 0. ]]), array([[[0.5]]]))

    Source: Sarawagi & Cohen, 2004.
    """
    functions, *chain = _checked(
        emissions, transitions, durations, lengths, start_transitions, end_transitions, engine
    )
    return tuple(like(result, emissions) for result in functions.marginals(*chain))


def viterbi(
    emissions: ArrayLike,
    transitions: ArrayLike,
    durations: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best segmentation and its score.

    Args:
        emissions, transitions, durations, lengths, start_transitions, end_transitions, engine: as
            in `log_partition`.

    Returns:
        tags: int32, shape (batch, steps): the tag of the segment that each step is in; 0 past the
            length and where no segmentation is possible.
        begins: bool, shape (batch, steps): whether a segment begins at this step.
        score: shape (batch,), dtype of `emissions`; −inf where no segmentation is possible.
        In a tie the segmentation with the lower last tag is taken; if these are equal, the one with
        the longer last segment, and so on backwards.

    Raises:
        ValueError, ImportError: as `log_partition`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import semi_markov
        >>> emissions = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> semi_markov.viterbi(emissions, np.full((2, 2), -0.5), np.zeros((2, 2)))
        (array([[0, 0, 1]], dtype=int32), array([[ True, False,  True]]), array([2.5]))

    Source: Sarawagi & Cohen, 2004.
    """
    functions, *chain = _checked(
        emissions, transitions, durations, lengths, start_transitions, end_transitions, engine
    )
    tags, begins, score = functions.viterbi(*chain)
    return tags, begins, like(score, emissions)


def _checked(emissions, transitions, durations, lengths, start, end, engine):
    """The engine's functions, and what they take: a chain and the durations."""
    chain = chain_of(emissions, transitions, lengths, None, start, end, may_vary=False)
    array = array_functions(chain.emissions)
    durations = array.convert_to_tensor(durations)
    durations = contiguous(array.cast(durations, chain.emissions.dtype))
    shape, num_tags = tuple(durations.shape), chain.emissions.shape[2]
    if len(shape) != 2 or shape[0] in (0, None) or shape[1] != num_tags:
        raise ValueError(
            f"durations must have shape (max_length, num_tags) = (>= 1, {num_tags}), got {shape}"
        )
    return engine_of_family("crf.semi_markov", chain.family, engine), chain, durations
