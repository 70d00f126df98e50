"""Hard constraints: which tag may follow which, begin and end a sequence, or stand at a step.

What is forbidden gets the score −inf, in the loss and in decoding, so its probability is exactly 0
and the rest sums to 1. Every function of `fastkeras.crf` takes such scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastkeras._arrays import array_functions, dtype_of
from fastkeras.crf.chain import LowRank
from fastkeras.crf.tag_schemes import LETTERS, OUTSIDE, parse, rule_of
from fastkeras.training.arguments import integer, is_integer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastkeras.typing import ArrayLike, Tensor


__all__ = ["Constraints", "allowed", "bitmap_of_tags", "restrict"]


class Constraints(NamedTuple):
    """What is allowed; made by `allowed`, or by hand from a matrix of your own.

    Attributes:
        transitions: bool, shape (num_tags, num_tags); [i, j] says whether i → j is allowed.
        start: bool, shape (num_tags,): the tags that may be first. None: all.
        end: bool, shape (num_tags,): the tags that may be last. None: all. For texts that may be
            cut inside a span use `constraints._replace(end=None)`.
    """

    transitions: Any
    start: Any = None
    end: Any = None

    def apply(
        self,
        transitions: ArrayLike | LowRank,
        start_transitions: ArrayLike | None = None,
        end_transitions: ArrayLike | None = None,
    ) -> dict[str, Tensor]:
        """Set the scores of what is not allowed to −inf.

        Args:
            transitions: float, of a shape that `fastkeras.crf.log_partition` takes, an array or a
                tensor; or a `LowRank`, whose product is then formed.
            start_transitions, end_transitions: float, shape (num_tags,), or None for zeros.

        Returns:
            A dict of transitions, start_transitions and end_transitions, as keyword arguments for
            any function of `fastkeras.crf`; None stays None if all tags are allowed there.

        Raises:
            ValueError: a shape does not fit.

        Example:
            >>> import numpy as np
            >>> from fastkeras.crf import constraints, viterbi
            >>> rules = constraints.allowed("BIO", ["O", "B", "I"])
            >>> emissions = np.array([[[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]])  # I I, but for the rules
            >>> viterbi(emissions, **rules.apply(np.zeros((3, 3))))
            (array([[1, 2]], dtype=int32), array([3.]))
        """
        rules = checked(self)
        if isinstance(transitions, LowRank):
            transitions = transitions.product()
        array = array_functions(transitions)
        transitions = array.convert_to_tensor(transitions)
        shape = tuple(transitions.shape)
        if not 2 <= len(shape) <= 4 or shape[-2:] != rules.transitions.shape:
            raise ValueError(
                f"transitions must have shape (num_tags, num_tags) = {rules.transitions.shape}, "
                f"or vary with the step and end with it, got {shape}"
            )

        def ruled(rule, scores):
            rule, scores = array.convert_to_tensor(rule), array.convert_to_tensor(scores)
            return array.where(rule, scores, -np.inf)

        scores = {"transitions": ruled(rules.transitions, transitions)}
        ends = (("start", rules.start, start_transitions), ("end", rules.end, end_transitions))
        for name, rule, given in ends:
            if rule is not None and not rule.all():
                none = array.zeros(rule.shape, dtype_of(transitions))
                given = ruled(rule, none if given is None else given)
            scores[f"{name}_transitions"] = given
        return {name: _of_dtype(score, transitions) for name, score in scores.items()}


def allowed(scheme: str, tags: Sequence[str]) -> Constraints:
    """The constraints of a tagging scheme.

    Args:
        scheme: "BIO" (or "IOB2"): a span begins with B-x and goes on with I-x. "IOB1": it begins
            with I-x, or with B-x right after a span of the same type. "BIOES" ("IOBES"): B-x I-x
            E-x, or S-x alone. "BIOUL" ("BILOU"): the same with L for E and U for S. "BMES": BIOES
            with M for I, and with or without O.
        tags: the names of the tags in the order of their numbers: "O", or a letter of the scheme,
            alone or followed by "-" or "_" and a type, such as "B-PER".

    Returns:
        `Constraints(transitions, start, end)`, NumPy arrays of bool.

    Raises:
        ValueError: the scheme is unknown, or a name does not belong to it.

    Example:
        >>> from fastkeras.crf import constraints
        >>> rules = constraints.allowed("BIO", ["O", "B-PER", "I-PER", "I-LOC"])
        >>> rules.transitions[1]  # after B-PER
        array([ True,  True,  True, False])
        >>> rules.start
        array([ True,  True, False, False])

    Source: Ramshaw & Marcus, 1995, "Text chunking using transformation-based learning" (IOB1);
        Ratinov & Roth, 2009, "Design challenges and misconceptions in named entity recognition".
    """
    if scheme not in LETTERS:
        raise ValueError(f"scheme={scheme!r} must be one of {', '.join(LETTERS)}")
    tags = list(tags)
    if not tags:
        raise ValueError("tags must be the names of at least one tag, got none")
    parsed, follows = [parse(tag, scheme) for tag in tags], rule_of(scheme)
    transitions = np.array([[follows(before, after) for after in parsed] for before in parsed])
    start = np.array([follows(OUTSIDE, tag) for tag in parsed])
    end = np.ones(len(parsed), bool)
    if LETTERS[scheme] != "BIO":  # then a tag shows whether a span is still open
        end = np.array([follows(tag, OUTSIDE) for tag in parsed])
    return Constraints(transitions, start, end)


def restrict(emissions: ArrayLike, allowed: ArrayLike) -> Tensor:
    """Set the scores of tags that are not allowed at a step to −inf.

    For decoding with knowledge about single steps: the tags that a dictionary has for each word,
    say, or tags that were observed (`bitmap_of_tags`).

    Args:
        emissions: float, shape (batch, steps, num_tags), an array or a tensor.
        allowed: bool, shape (batch, steps, num_tags), or one that broadcasts to it.

    Returns:
        The emissions, −inf where `allowed` is False; differentiable elsewhere.

    Raises:
        ValueError: `allowed` is not bool or does not broadcast.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import constraints
        >>> constraints.restrict(np.ones((1, 1, 3)), np.array([True, False, True]))
        array([[[  1., -inf,   1.]]])
    """
    array = array_functions(emissions)
    emissions, allowed = array.convert_to_tensor(emissions), array.convert_to_tensor(allowed)
    if dtype_of(allowed) != "bool":
        raise ValueError(f"allowed must be bool, got {dtype_of(allowed)}")
    shape = tuple(allowed.shape)
    wanted = tuple(emissions.shape)
    fits = len(shape) <= len(wanted) and all(
        got in (1, want, None) or want is None
        for got, want in zip(shape[::-1], wanted[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            f"allowed must have shape (batch, steps, num_tags) = {wanted}, or one that broadcasts "
            f"to it, got {shape}"
        )
    return _of_dtype(array.where(allowed, emissions, -np.inf), emissions)


def bitmap_of_tags(tags: ArrayLike, num_tags: int, unknown: int = -100) -> Tensor:
    """The bitmap of partly observed tags: a known tag alone is allowed, otherwise all tags are.

    Args:
        tags: integers, shape (batch, steps), an array or a tensor.
        num_tags: number of tags.
        unknown: the value in `tags` where the tag is not known.

    Returns:
        bool, shape (batch, steps, num_tags), for `restrict` and `log_likelihood_of_sets`. Where a
        tag is out of range, but not `unknown`, nothing is allowed.

    Raises:
        ValueError: `num_tags` or `unknown` is no integer, or `num_tags` is below 1.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import constraints
        >>> constraints.bitmap_of_tags(np.array([[1, -100]]), 2)
        array([[[False,  True],
                [ True,  True]]])
    """
    integer("num_tags", num_tags, 1)
    if not is_integer(unknown):
        raise ValueError(f"unknown={unknown!r} must be an integer")
    array = array_functions(tags)
    tags = array.convert_to_tensor(tags)[..., None]
    return (tags == array.arange(num_tags, dtype=tags.dtype)) | (tags == unknown)


def checked(constraints, num_tags=None):
    """The constraints as NumPy arrays of bool, checked for `num_tags`; None takes their own number.

    Raises:
        ValueError: a shape or dtype is not what `Constraints` says.
    """
    names = ("transitions", "start", "end")
    rules = [None if rule is None else np.asarray(rule) for rule in constraints]
    if len(rules) != 3 or rules[0] is None:
        raise ValueError("constraints must be Constraints(transitions, start, end)")
    num_tags = len(rules[0]) if num_tags is None and rules[0].ndim else num_tags
    shapes = ((num_tags, num_tags), (num_tags,), (num_tags,))
    for name, rule, shape in zip(names, rules, shapes, strict=True):
        if rule is not None and (rule.shape != shape or rule.dtype != bool):
            raise ValueError(
                f"constraints.{name} must be bool of shape {shape}, "
                f"got {rule.dtype} of shape {rule.shape}"
            )
    return Constraints(*rules)


def _of_dtype(score, like):
    """The score in the dtype of `like`, if that can hold −inf; `where` may have changed it."""
    if score is None or score.dtype == like.dtype or "float" not in dtype_of(like):
        return score
    return array_functions(score).cast(score, like.dtype)
