"""What the layer hands to the functions of `crf.semi_markov`, and the score of given segments."""

from typing import Any, NamedTuple

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


def scores_by_step(segments, valid, emissions, begin_scores, scores, durations):
    """The scores of each sequence's segments, shape (batch, steps); their sum is its score.

    A segment's transition and score to begin are at its first step, that of its length at its last.

    Args:
        segments: `Segments`.
        valid: bool, shape (batch, steps); the valid steps come first.
        emissions, begin_scores: shape (batch, steps, num_tags); begin_scores may be None.
        scores: transitions, start_transitions and end_transitions of the layer, a dict.
        durations: shape (max_length, num_tags).
    """
    begins, ends, tags, lengths = segments
    transitions = scores["transitions"]
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


def with_begins(emissions, begin_scores, scores, durations):
    """A semi-Markov chain whose best and summed scores include a score of each first step.

    The functions of `crf.semi_markov` know none. So there is one more step before each step, and
    one more tag for each tag: segments of the new tags have one step, and come before each segment
    of an old one. On the new steps, new tags have the begin scores, and old ones 0: a segment of l
    steps has 2l − 1, with l − 1 new ones inside.

    Returns:
        Emissions (batch, 2 steps, 2 num_tags), transitions, durations (2 max_length − 1, ·), start
        and end transitions.
    """
    batch, steps = ops.shape(emissions)[:2]
    max_length, num_tags = durations.shape
    nothing = ops.zeros_like(emissions)
    new = ops.concatenate([nothing, begin_scores], axis=-1)
    old = ops.concatenate([emissions, nothing], axis=-1)
    both = ops.reshape(ops.stack([new, old], axis=2), (batch, 2 * steps, 2 * num_tags))
    transitions = scores["transitions"]
    dtype = transitions.dtype
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
    start, end = (
        ops.zeros((num_tags,), dtype) if scores[name] is None else scores[name]
        for name in ("start_transitions", "end_transitions")
    )
    start, end = ops.concatenate([never[0], start]), ops.concatenate([end, never[0]])
    return both, transitions, ops.concatenate([odd, one], axis=1), start, end
