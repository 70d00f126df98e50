"""What a chain tells about the tags of a sequence: their probabilities, and the best of them."""

from fastkeras.crf.arguments import like
from fastkeras.crf.varying import door, functions_for


def marginals(
    emissions,
    transitions,
    lengths=None,
    *,
    mask=None,
    start_transitions=None,
    end_transitions=None,
    engine=None,
):
    """Posterior probability of each tag at each step, and expected number of each transition.

    Both are derivatives of log Z: the probabilities with respect to the emissions, the counts with
    respect to the transitions.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.

    Returns:
        The unary marginals, shape (batch, steps, num_tags): they sum to 1 at valid steps and are 0
        elsewhere. The expected transition counts, shape (batch, num_tags, num_tags): they sum to
        the number of valid steps minus one. Of transitions that vary they are the probabilities of
        each pair, shape (batch, steps − 1, num_tags, num_tags): [b, t − 1] of that at step t and
        the valid step before. All are zero for an impossible sequence.

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
    x, _, *chain = door(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    unary, counts = functions_for(emissions, transitions, engine).marginals(x, *chain)
    return like(unary, emissions), like(counts, emissions)


def viterbi(
    emissions,
    transitions,
    lengths=None,
    *,
    mask=None,
    start_transitions=None,
    end_transitions=None,
    engine=None,
):
    """The best tag sequence and its score.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.

    Returns:
        tags: int32, shape (batch, steps); of equal candidates the lowest tag; 0 at steps that are
            not valid.
        score: shape (batch,), dtype of `emissions`; 0 where no step is valid, −inf where no
            sequence is possible (its tags then mean nothing).

    Raises:
        ValueError, ImportError: as `log_partition`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import viterbi
        >>> emissions = np.array([[[1.0, 2.0], [3.0, 4.0]]])
        >>> viterbi(emissions, np.array([[0.0, 0.0], [10.0, 0.0]]))
        (array([[1, 0]], dtype=int32), array([15.]))

    Source: Viterbi, 1967; Forney, 1973, "The Viterbi algorithm".
    """
    x, _, *chain = door(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    tags, score = functions_for(emissions, transitions, engine).viterbi(x, *chain)
    return tags, like(score, emissions)
