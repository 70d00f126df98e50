"""Probabilities of tags, transitions and spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras._arrays import array_functions
from fastkeras.crf.arguments import as_array, chain_of, engine_of, like, rank_of
from fastkeras.crf.partial_labels import log_likelihood_of_sets

if TYPE_CHECKING:
    from fastkeras.crf.chain import LowRank
    from fastkeras.typing import ArrayLike, Tensor


def marginals(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Posterior probability of each tag at each step, and expected number of each transition.

    Both are derivatives of log Z: the probabilities by the emissions, the counts by the
    transitions.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.

    Returns:
        The unary marginals, shape (batch, steps, num_tags): they sum to 1 at valid steps and are 0
        elsewhere. The expected transition counts, shape (batch, num_tags, num_tags): they sum to
        the number of valid steps minus one. For transitions that vary, instead of the counts, the
        probability of each pair of tags, shape (batch, steps − 1, num_tags, num_tags): [b, t − 1]
        is for the pair of step t and the valid step before. All are zero if no sequence is
        possible.

    Raises:
        ValueError, ImportError: as `log_partition`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import marginals
        >>> unary, counts = marginals(np.zeros((1, 3, 2)), np.zeros((2, 2)))
        >>> unary[0, 0], counts[0]
        (array([0.5, 0.5]), array([[0.5, 0.5],
               [0.5, 0.5]]))

    Source: Rabiner, 1989, "A tutorial on hidden Markov models", section III.
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    unary, counts = engine_of(chain, engine).marginals(chain)
    return like(unary, emissions), like(counts, emissions)


def posterior_decode(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The most probable tag of each step, and its probability.

    Of all sequences it has the fewest expected wrong tags, while that of `viterbi` is the most
    probable as a whole. The tags together may be a sequence that the constraints forbid.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.

    Returns:
        tags: int32, shape (batch, steps); in a tie the lowest tag.
        probabilities: shape (batch, steps), dtype of `emissions`. Both are 0 at steps that are not
        valid and where no sequence is possible.

    Raises:
        ValueError, ImportError: as `log_partition`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import posterior_decode
        >>> posterior_decode(np.log([[[0.4, 0.6], [0.7, 0.3]]]), np.zeros((2, 2)))
        (array([[1, 0]], dtype=int32), array([[0.6, 0.7]]))

    Source: Rabiner, 1989, "A tutorial on hidden Markov models", section III.B.
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    unary, _ = engine_of(chain, engine).marginals(chain)
    unary, array = as_array(unary, chain.emissions), array_functions(chain.emissions)
    tags = array.cast(array.argmax(unary, axis=-1), "int32")
    return tags, like(array.max(unary, axis=-1), emissions)


def span_confidence(
    emissions: ArrayLike,
    tags: ArrayLike,
    spans: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Probability that some consecutive steps have exactly these tags, whatever the others are.

    The confidence in an entity that was found: unlike the product of the probabilities of its tags,
    it takes into account that they depend on each other. For a span of the whole sequence it is
    exp(`log_likelihood`).

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.
        tags: integers, shape (batch, steps), for instance those that `viterbi` found; only tags
            inside the spans are read.
        spans: integers, shape (num_spans, 3), a NumPy array or a list: the index of a sequence, the
            first step, and the step after the last. In schemes such as BIO, the last tag of an
            entity does not show that it ends there: include the step after it.

    Returns:
        Probabilities, shape (num_spans,), dtype of `emissions`. Steps that are not valid do not
        count.

    Raises:
        ValueError: as `log_partition`, and for spans of another shape or out of range.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import span_confidence
        >>> emissions = np.log([[[0.4, 0.6], [0.7, 0.3], [0.5, 0.5]]])
        >>> span_confidence(emissions, np.array([[1, 0, 0]]), [(0, 0, 2)], np.zeros((2, 2)))
        array([0.42])

    Source: Culotta & McCallum, 2004, "Confidence estimation for information extraction".
    """
    array = array_functions(emissions)
    emissions, tags = array.convert_to_tensor(emissions), array.convert_to_tensor(tags)
    spans = np.asarray(spans)
    if spans.size == 0:
        spans = np.zeros((0, 3), int)
    if spans.ndim != 2 or spans.shape[1] != 3 or spans.dtype.kind not in "iu":
        raise ValueError(
            "spans must be integers of shape (num_spans, 3): sequence, first step, step after the "
            f"last; got {spans.dtype} of shape {spans.shape}"
        )
    batch, steps, num_tags = emissions.shape
    of, first, stop = spans.T
    wrong = (of < 0) | (of >= batch) | (first < 0) | (stop <= first) | (stop > steps)
    if wrong.any():
        raise ValueError(
            f"spans must be in sequences 0..{batch - 1} and steps 0 <= first < stop <= {steps}, "
            f"got {tuple(spans[wrong][0].tolist())}"
        )
    t = np.arange(steps)
    outside = array.convert_to_tensor((t < first[:, None]) | (t >= stop[:, None]))
    of = array.convert_to_tensor(of)

    def rows(values):
        if values is None:
            return None
        return array.take(array.convert_to_tensor(values), of, axis=0)

    allowed = outside[..., None] | (
        rows(tags)[..., None] == array.arange(num_tags, dtype=tags.dtype)
    )
    log_p = log_likelihood_of_sets(
        rows(emissions),
        allowed,
        rows(transitions) if rank_of(transitions) == 4 else transitions,
        rows(lengths),
        mask=rows(mask),
        start_transitions=start_transitions,
        end_transitions=end_transitions,
        engine=engine,
    )
    return array.exp(as_array(log_p, emissions))
