"""Decoding by the marginals, and the probability of single spans."""

import numpy as np

from fastkeras._engines import engine_for
from fastkeras.crf.arguments import array_functions, as_array, chain_arguments, like
from fastkeras.crf.partial_labels import log_likelihood_of_sets


def posterior_decode(
    emissions,
    transitions,
    lengths=None,
    *,
    mask=None,
    start_transitions=None,
    end_transitions=None,
    engine=None,
):
    """The most probable tag of each step, and its probability.

    It has the fewest expected wrong tags of all sequences, where `viterbi` has the best chance to
    be right as a whole. The tags need not be a sequence that the constraints allow.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.

    Returns:
        tags: int32, shape (batch, steps); of equal candidates the lowest tag.
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
    x, _, *chain = chain_arguments(
        emissions, transitions, lengths, mask, start_transitions, end_transitions
    )
    unary, _ = engine_for("crf", emissions, engine).marginals(x, *chain)
    unary, array = as_array(unary, x), array_functions(x)
    tags = array.argmax(unary, axis=-1)
    tags = tags.astype(np.int32) if array is np else array.cast(tags, "int32")
    return tags, like(array.max(unary, axis=-1), emissions)


def span_confidence(
    emissions,
    tags,
    spans,
    transitions,
    lengths=None,
    *,
    mask=None,
    start_transitions=None,
    end_transitions=None,
    engine=None,
):
    """Probability that a stretch of a sequence has just these tags, whatever the others are.

    The confidence of an entity that was found: unlike a product of the tags' own probabilities it
    knows that they depend on each other. A span of the whole sequence gives exp(`log_likelihood`).

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.
        tags: integers, shape (batch, steps), such as `viterbi` found; only those in spans are read.
        spans: integers, shape (num_spans, 3), a NumPy array or a list: the index of a sequence, the
            first step, and the step after the last. To tell where a span ends in schemes such as
            BIO, whose last tag does not say it, include the step after it.

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
    if array is np:
        emissions, tags = np.asarray(emissions), np.asarray(tags)
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
    outside = (t < first[:, None]) | (t >= stop[:, None])

    def rows(values):
        return None if values is None else array.take(values, of, axis=0)

    allowed = outside[..., None] | (
        rows(tags)[..., None] == array.arange(num_tags, dtype=tags.dtype)
    )
    log_p = log_likelihood_of_sets(
        rows(emissions),
        allowed,
        transitions,
        rows(lengths),
        mask=rows(mask),
        start_transitions=start_transitions,
        end_transitions=end_transitions,
        engine=engine,
    )
    return np.exp(as_array(log_p, emissions)) if array is np else array.exp(log_p)
