"""What the layer hands to the functions of `crf.semi_markov`, and the score of given segments."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from fastkeras.crf.layers.span_counts import at_the_last

NEGATIVE_INFINITY = float("-inf")


class Segments(NamedTuple):
    """Labels of one integer a step, taken apart; all of shape (batch, steps)."""

    begins: Any  # bool: whether a segment begins at the step
    ends: Any  # bool: whether one ends with it
    tags: Any  # int32: the tag of the segment that the step is in
    lengths: Any  # int32: the steps of that segment up to this one

    @classmethod
    def of(cls, labels, valid):
        """From labels and the steps that count, which come first."""
        begins = (labels >= 0) & valid
        t = ops.arange(ops.shape(labels)[1], dtype="int32") + ops.zeros_like(labels)
        tags, first = (at_the_last(begins, values) for values in (labels, t))
        after = ops.zeros_like(begins[:, :1])
        new_next = ops.concatenate([begins[:, 1:], after], axis=1)
        last = valid & ~ops.concatenate([valid[:, 1:], after], axis=1)
        return cls(begins, valid & (new_next | last), ops.maximum(tags, 0), t - first + 1)


def scores_by_step(segments, valid, emissions, begin_scores, scores):
    """The scores of each sequence's segments, shape (batch, steps); their sum is its score.

    A segment's transition and score to begin are at its first step, that of its length at its last.

    Args:
        segments: `Segments`.
        valid: bool, shape (batch, steps); the valid steps come first.
        emissions, begin_scores: shape (batch, steps, num_tags); begin_scores may be None.
        scores: transitions, durations, start_transitions and end_transitions of the layer, a dict.
    """
    begins, ends, tags, lengths = segments
    transitions, durations = scores["transitions"], scores["durations"]
    max_length, num_tags = durations.shape

    def at(where, values):
        return ops.where(where, values, 0)

    def of_tags(values):
        return ops.take_along_axis(values, tags[..., None], axis=2)[..., 0]

    found = at(valid, of_tags(emissions))
    if begin_scores is not None:
        found = found + at(begins, of_tags(begin_scores))
    before = ops.concatenate([tags[:, :1], tags[:, :-1]], axis=1)
    pairs = ops.take(ops.reshape(transitions, (-1,)), before * num_tags + tags)
    first = ops.concatenate([ops.ones_like(begins[:, :1]), ops.zeros_like(begins[:, 1:])], axis=1)
    found = found + at(begins & ~first, pairs)
    places = ops.clip(lengths, 1, max_length) - 1
    of_durations = ops.take(ops.reshape(durations, (-1,)), places * num_tags + tags)
    of_durations = ops.where(lengths <= max_length, of_durations, NEGATIVE_INFINITY)
    found = found + at(ends, of_durations)
    last = valid & ~ops.concatenate([valid[:, 1:], ops.zeros_like(valid[:, :1])], axis=1)
    for name, where in (("start_transitions", first & valid), ("end_transitions", last)):
        if scores[name] is not None:
            found = found + at(where, ops.take(scores[name], tags))
    return found


def with_begins(emissions, begin_scores, scores):
    """A semi-Markov chain whose best and summed scores include a score of each first step.

    The functions of `crf.semi_markov` know none. So there is one more step before each step, and
    one more tag for each tag: segments of the new tags have one step, and come before each segment
    of an old one. On the new steps, new tags have the begin scores, and old ones 0: a segment of l
    steps has 2l − 1, with l − 1 new ones inside.

    Returns:
        A dict of emissions (batch, 2 steps, 2 num_tags), transitions, durations (2 max_length − 1,
        ·), start_transitions and end_transitions. `without_begins` undoes it in their marginals.
    """
    batch, steps = ops.shape(emissions)[:2]
    max_length, num_tags = scores["durations"].shape
    nothing = ops.zeros_like(emissions)
    new = ops.concatenate([nothing, begin_scores], axis=-1)
    old = ops.concatenate([emissions, nothing], axis=-1)
    both = ops.reshape(ops.stack([new, old], axis=2), (batch, 2 * steps, 2 * num_tags))
    transitions, durations, dtype = scores["transitions"], scores["durations"], emissions.dtype
    never = ops.full((num_tags, num_tags), NEGATIVE_INFINITY, dtype)
    same = ops.where(ops.eye(num_tags, dtype=dtype) > 0, ops.zeros_like(never), never)
    into_new = ops.concatenate([never, transitions], axis=1)
    transitions = ops.concatenate([into_new, ops.concatenate([same, never], axis=1)], axis=0)
    no_length = ops.full((max_length, num_tags), NEGATIVE_INFINITY, dtype)
    odd = ops.reshape(ops.stack([durations, no_length], axis=1), (2 * max_length, num_tags))[:-1]
    one = ops.concatenate(
        [
            ops.zeros((1, num_tags), dtype),
            ops.full((2 * max_length - 2, num_tags), NEGATIVE_INFINITY, dtype),
        ],
        axis=0,
    )
    start, end = _boundaries(scores, num_tags, dtype)
    return {
        "emissions": both,
        "transitions": transitions,
        "durations": ops.concatenate([odd, one], axis=1),
        "start_transitions": ops.concatenate([never[0], start]),
        "end_transitions": ops.concatenate([end, never[0]]),
    }


def without_begins(unary, segments, counts):
    """Of the marginals of `with_begins`, those of the steps and tags that were there before."""
    num_tags = unary.shape[-1] // 2
    return (
        unary[:, 1::2, :num_tags],
        segments[:, 1::2, ::2, :num_tags],
        counts[:, :num_tags, num_tags:],
    )


def linear_chain(emissions, begin_scores, scores):
    """The linear chain whose tag sequences are the segmentations, of the same scores.

    Its tag (l − 1) · num_tags + j says that the step is the l-th of a segment of tag j. So its
    steps cost the square of max_length · num_tags: it is for what segments have no function for.

    Returns:
        A dict of emissions, transitions, start_transitions and end_transitions.
    """
    max_length, num_tags = scores["durations"].shape
    dtype, size = emissions.dtype, max_length * num_tags
    start, end = _boundaries(scores, num_tags, dtype)
    of_length = ops.reshape(scores["durations"], (-1,))  # where a segment ends with this tag
    into_new = of_length[:, None] + ops.tile(scores["transitions"], (max_length, 1))
    goes_on = np.eye(size, k=num_tags)[:, num_tags:] > 0
    goes_on = ops.convert_to_tensor(np.where(goes_on, 0, NEGATIVE_INFINITY), dtype)
    never = ops.full((size - num_tags,), NEGATIVE_INFINITY, dtype)
    x = ops.tile(emissions, (1, 1, max_length))
    if begin_scores is not None:
        x = ops.concatenate([x[..., :num_tags] + begin_scores, x[..., num_tags:]], axis=-1)
    return {
        "emissions": x,
        "transitions": ops.concatenate([into_new, goes_on], axis=1),
        "start_transitions": ops.concatenate([start, never]),
        "end_transitions": of_length + ops.tile(end, (max_length,)),
    }


def _boundaries(scores, num_tags, dtype):
    """The scores of the first and of the last tag, of zeros if there are none."""
    return (
        ops.zeros((num_tags,), dtype) if scores[name] is None else scores[name]
        for name in ("start_transitions", "end_transitions")
    )
