"""Chains drawn by hypothesis, as keyword arguments for the functions of fastkeras.crf."""

import numpy as np
from hypothesis import strategies as st

NUM_TAGS = (1, 2, 3, 5, 9, 16, 17, 33)
SCALES = (0.1, 1.0, 30.0, 1000.0)
FORBIDDEN = (None, -np.inf, -1e4)
IGNORED_TAG = -100


@st.composite
def chains(draw, dtype=None, num_tags=NUM_TAGS, scales=SCALES, forbidden=FORBIDDEN, max_steps=7):
    """Draw a batch of chains: emissions, tags, transitions, lengths, mask, start and end."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    batch = draw(st.integers(1, 4), label="batch")
    steps = draw(st.integers(1, max_steps), label="steps")
    tags = draw(st.sampled_from(num_tags), label="num_tags")
    scale = draw(st.sampled_from(scales), label="scale")
    dtype = dtype or draw(st.sampled_from(("float32", "float64")), label="dtype")

    def scores(*shape):
        return (scale * rng.standard_normal(shape)).astype(dtype)

    emissions, transitions = scores(batch, steps, tags), scores(tags, tags)
    for array in (emissions, transitions):
        value = draw(st.sampled_from(forbidden), label="forbidden")
        if value is not None:
            array[rng.random(array.shape) < draw(st.sampled_from((0.1, 0.5)))] = value
    start = scores(tags) if draw(st.booleans(), label="start") else None
    end = scores(tags) if draw(st.booleans(), label="end") else None
    lengths, mask = draw(valid_steps(batch, steps))
    gold = rng.integers(0, tags, (batch, steps))
    gold[~is_valid(lengths, mask, batch, steps)] = IGNORED_TAG
    return {
        "emissions": emissions,
        "tags": gold,
        "transitions": transitions,
        "lengths": lengths,
        "mask": mask,
        "start_transitions": start,
        "end_transitions": end,
    }


@st.composite
def valid_steps(draw, batch, steps):
    """Draw (lengths, mask), each sometimes None, with lengths of 0 and empty masks among them."""
    lengths = None
    if draw(st.booleans(), label="lengths given"):
        lengths = draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
        lengths = np.array(lengths, draw(st.sampled_from(("int32", "int64"))))
    kind = draw(st.sampled_from((None, None, "holes", "no first step", "nothing valid")))
    if kind is None:
        return lengths, None
    flat = draw(st.lists(st.booleans(), min_size=batch * steps, max_size=batch * steps))
    mask = np.array(flat).reshape(batch, steps)
    if kind == "no first step":
        mask[:, 0] = False
    if kind == "nothing valid":
        mask[0] = False
    return lengths, mask


def is_valid(lengths, mask, batch, steps):
    """Return bool (batch, steps): the steps that take part."""
    valid = np.ones((batch, steps), bool) if mask is None else mask.astype(bool)
    if lengths is not None:
        valid = valid & (np.arange(steps) < np.asarray(lengths)[:, None])
    return valid
