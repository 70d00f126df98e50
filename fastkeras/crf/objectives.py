"""Other objectives of training than the likelihood: marginals, margins, and expected costs.

All but the first are composed of what the kernels have, so that their gradients are native, too:
the chain with other emissions, and the scores of given paths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from fastkeras._arrays import array_functions, contiguous
from fastkeras.crf.arguments import as_array, chain_of, engine_of, like, tags_of
from fastkeras.training.arguments import integer, number

if TYPE_CHECKING:
    from fastkeras.crf.chain import LowRank
    from fastkeras.typing import ArrayLike, Tensor


def marginal_log_likelihood(
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
    """Σ_t log p(y_t): the log-probabilities of the tags, each summed over all other tags.

    For taggers that decode each step by itself, as `posterior_decode` does: a sequence is not worse
    for one wrong tag than the tag is. keras-contrib's `learn_mode="marginal"`.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions: as in
            `log_partition`.
        tags: as in `sequence_score`.
        engine: a name in `fastkeras.engines("crf")`. None: "keras" for tensors, since it can
            differentiate marginals, and the fastest for arrays.

    Returns:
        Shape (batch,), dtype of `emissions`, never above 0; −inf, without gradients, where a tag is
        impossible or its probability underflows.

    Raises:
        ValueError, ImportError: as `sequence_score`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import marginal_log_likelihood
        >>> p = marginal_log_likelihood(np.zeros((1, 2, 3)), np.array([[0, 2]]), np.zeros((3, 3)))
        >>> float(np.exp(p[0]).round(6))
        0.111111

    Source: Kakade, Teh & Roweis, 2002, "An alternate objective function for Markovian fields".
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    functions = engine_of(chain, differentiable(chain, engine))
    return like(marginal_likelihood_of(functions, chain, tags_of(chain, tags)), emissions)


def softmax_margin_loss(
    emissions: ArrayLike,
    tags: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    costs: float | ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Log Σ_y' exp(score(y') + cost(y, y')) − score(y): the likelihood with a margin for mistakes.

    The negative log-likelihood of a chain in which wrong tags score more, by what they cost: so
    that the worse a sequence is, the further below the right one it has to score.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.
        tags: as in `sequence_score`.
        costs: what each step with a wrong tag costs: a number; or shape (num_tags, num_tags), where
            [i, j] is that of tag j in place of i. The costs of a sequence add up.

    Returns:
        Shape (batch,), dtype of `emissions`, never below 0; +inf, without gradients, for an
        impossible sequence. Differentiable in a tensor engine.

    Raises:
        ValueError: as `sequence_score`, and for costs of another shape.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import softmax_margin_loss
        >>> loss = softmax_margin_loss(
        ...     np.zeros((1, 1, 3)), np.array([[0]]), np.zeros((3, 3)), costs=np.log(2)
        ... )
        >>> float(np.exp(loss[0]).round(6))  # 1 + 2 + 2
        5.0

    Source: Gimpel & Smith, 2010, "Softmax-margin CRFs: training log-linear models with cost
        functions".
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    functions = engine_of(chain, engine)
    return like(softmax_margin_of(functions, chain, tags_of(chain, tags), costs), emissions)


def max_margin_loss(
    emissions: ArrayLike,
    tags: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    costs: float | ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """max_y' (score(y') + cost(y, y')) − score(y): the structured hinge loss.

    The best sequence by score and cost is found by Viterbi; the gradient is the difference of the
    counts on its path and on the right one. With `costs=0` it is the loss of the structured
    perceptron.

    Args:
        emissions, tags, transitions, lengths, costs, mask, start_transitions, end_transitions,
            engine: as in `softmax_margin_loss`.

    Returns:
        Shape (batch,), dtype of `emissions`, never below 0; +inf, without gradients, for an
        impossible sequence. Differentiable in a tensor engine, where the best sequence is unique.

    Raises:
        ValueError, ImportError: as `softmax_margin_loss`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import max_margin_loss
        >>> emissions = np.array([[[2.0, 1.5], [0.0, 3.0]]])
        >>> max_margin_loss(emissions, np.array([[0, 1]]), np.zeros((2, 2)))
        array([0.5])

    Source: Taskar, Guestrin & Koller, 2003, "Max-margin Markov networks"; Tsochantaridis, Joachims,
        Hofmann & Altun, 2005; for the perceptron Collins, 2002, "Discriminative training methods
        for hidden Markov models".
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    functions = engine_of(chain, engine)
    return like(max_margin_of(functions, chain, tags_of(chain, tags), costs), emissions)


def expected_cost(
    emissions: ArrayLike,
    tags: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    num_paths: int = 8,
    cost: Callable[..., Any] | None = None,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Σ_y' p(y') cost(y, y') over the best sequences: the loss of minimum risk training.

    Any cost will do, also one that is no sum over steps, such as 1 − F1 of spans: it is computed
    for whole sequences, and not differentiated. p is normalized over the `num_paths` best
    sequences. If all of them cost the same there is no gradient, so begin with another loss.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.
        tags: as in `sequence_score`.
        num_paths: how many sequences to look at, at least 2.
        cost: a function of tags (batch, 1, steps), of paths (batch, num_paths, steps), and of which
            steps are valid, (batch, 1, steps), that returns costs, (batch, num_paths). None: the
            share of the valid steps whose tag is wrong.

    Returns:
        Shape (batch,), dtype of `emissions`; 0 where no step is valid or no sequence is possible.
        Differentiable in a tensor engine.

    Raises:
        ValueError: as `sequence_score`, and for `num_paths` below 2.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import expected_cost
        >>> expected_cost(np.log([[[0.75, 0.25]]]), np.array([[0]]), np.zeros((2, 2)), num_paths=2)
        array([0.25])

    Source: Och, 2003, "Minimum error rate training in statistical machine translation"; Shen et
        al., 2016, "Minimum risk training for neural machine translation", section 3.
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    functions, tags = engine_of(chain, engine), tags_of(chain, tags)
    return like(expected_cost_of(functions, chain, tags, num_paths, cost), emissions)


def differentiable(chain, engine):
    """The engine for marginals that are to be differentiated, unless one is named."""
    return "keras" if engine is None and chain.family not in ("numpy", "cupy") else engine


def marginal_likelihood_of(functions, chain, tags):
    """`marginal_log_likelihood` of a chain by an engine's functions, in its dtype."""
    array = array_functions(chain.emissions)
    unary, _ = functions.marginals(chain)
    unary = as_array(unary, chain.emissions)
    num_tags, valid = chain.emissions.shape[-1], chain.valid_steps()
    places = array.clip(tags, 0, num_tags - 1)[..., None]
    is_tag = places == array.arange(num_tags, dtype="int32")
    probability = array.sum(array.where(is_tag, unary, array.zeros_like(unary)), axis=-1)
    one = array.ones_like(probability)
    probability = array.where(valid, probability, one)
    impossible = probability <= 0  # not of NaN, and without a negation, see `is_impossible`
    logs = array.log(array.where(impossible, one, probability))
    total = array.sum(array.where(impossible, one * -float("inf"), logs), axis=1)
    nothing = array.zeros_like(total)
    total = total - array.stop_gradient(array.where(total > 0, total, nothing))  # by rounding
    # nor the derivatives of the other tags, where one is impossible
    impossible = array.sum(array.cast(impossible, "int32"), axis=1) > 0
    total = array.where(impossible, array.stop_gradient(total), total)
    return _nan_where(array, _has_no_score(functions, chain, tags), total)


def softmax_margin_of(functions, chain, tags, costs):
    """`softmax_margin_loss` of a chain by an engine's functions, in its dtype."""
    value = functions.log_likelihood(_with_costs(chain, tags, costs), tags)
    return -as_array(value, chain.emissions)


def max_margin_of(functions, chain, tags, costs):
    """`max_margin_loss` of a chain by an engine's functions, in its dtype."""
    array = array_functions(chain.emissions)
    chain = _with_costs(chain, tags, costs)
    decoded = functions.viterbi(chain.with_scores(array.stop_gradient))
    best, score = (as_array(result, chain.emissions) for result in decoded)
    right = as_array(functions.sequence_score(chain, tags), chain.emissions)
    loss = as_array(functions.sequence_score(chain, best), chain.emissions) - right
    loss = array.where(loss < 0, array.zeros_like(loss), loss)  # by rounding
    loss = array.where(right == -float("inf"), array.ones_like(loss) * float("inf"), loss)
    return _nan_where(array, _is_no_best(score), loss)


def expected_cost_of(functions, chain, tags, num_paths, cost=None):
    """`expected_cost` of a chain by an engine's functions, in its dtype."""
    num_paths = integer("num_paths", num_paths, 2)
    array = array_functions(chain.emissions)
    best = functions.k_best(chain.with_scores(array.stop_gradient), num_paths)
    paths, scores = (as_array(result, chain.emissions) for result in best)
    batch, steps, _ = array.shape(chain.emissions)

    def for_paths(value):
        """Once for each path, as more sequences of the batch."""
        rest = array.shape(value)[1:]
        value = array.broadcast_to(value[:, None], (batch, num_paths, *rest))
        return contiguous(array.reshape(value, (batch * num_paths, *rest)))

    every = chain._replace(
        emissions=for_paths(chain.emissions),
        transitions=for_paths(chain.transitions) if chain.varies else chain.transitions,
        lengths=for_paths(chain.lengths),
        mask=None if chain.mask is None else for_paths(chain.mask),
    )
    flat = array.reshape(paths, (batch * num_paths, steps))
    own = as_array(functions.sequence_score(every, flat), chain.emissions)
    own = array.reshape(own, (batch, num_paths))
    possible = scores > -float("inf")
    own = array.where(possible, own, array.zeros_like(own))
    nothing = array.zeros_like(own)
    least = array.where(possible, own, nothing - float("inf"))
    peak = array.stop_gradient(array.max(least, axis=1, keepdims=True))
    peak = array.where(peak > -float("inf"), peak, array.zeros_like(peak))
    weights = array.where(possible, array.exp(own - peak), nothing)
    valid = chain.valid_steps()[:, None]
    costs = (cost or _share_of_wrong_steps)(tags[:, None], paths, valid)
    costs = array.stop_gradient(array.cast(array.convert_to_tensor(costs), own.dtype))
    total = array.sum(weights, axis=1)
    total = array.where(total > 0, total, array.ones_like(total))
    risk = array.sum(weights * costs, axis=1) / total
    spoiled = _is_no_best(scores[:, 0]) | _has_no_score(functions, chain, tags)
    return _nan_where(array, spoiled, risk)


def _is_no_best(score):
    """Whether the best score is NaN or +inf: where a score that the sequence uses is."""
    return (score != score) | (score == float("inf"))


def _has_no_score(functions, chain, tags):
    """Whether a tag is out of range, for each sequence; or an error, where the engine can raise.

    For objectives that hand the tags to no other function of the engine.
    """
    chain = chain.with_scores(array_functions(chain.emissions).stop_gradient)
    score = as_array(functions.sequence_score(chain, tags), chain.emissions)
    return score != score


def _nan_where(array, spoiled, loss):
    return array.where(spoiled, array.ones_like(loss) * float("nan"), loss)


def _share_of_wrong_steps(tags, paths, valid):
    array = array_functions(paths)
    wrong = array.sum(array.cast((tags != paths) & valid, "float32"), axis=-1)
    steps = array.sum(array.cast(valid, "float32"), axis=-1)
    return wrong / array.where(steps > 0, steps, array.ones_like(steps))


def _with_costs(chain, tags, costs):
    """The chain in which each wrong tag scores more, by what it costs."""
    array, num_tags = array_functions(chain.emissions), chain.emissions.shape[-1]
    if isinstance(costs, Real):
        number("costs", costs, "a finite number of at least 0", lambda cost: 0 <= cost < math.inf)
        costs = float(costs) * (1 - np.eye(num_tags))
    shape = tuple(getattr(costs, "shape", None) or np.shape(costs))
    if shape != (num_tags, num_tags):
        raise ValueError(
            "costs must be a number, or have shape (num_tags, num_tags) = "
            f"{(num_tags, num_tags)}, got {shape}"
        )
    costs = array.cast(array.convert_to_tensor(costs), chain.emissions.dtype)
    of_steps = array.take(costs, array.clip(tags, 0, num_tags - 1), axis=0)
    return chain._replace(emissions=chain.emissions + of_steps)
