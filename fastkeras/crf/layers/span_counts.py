"""Counting spans with keras.ops: tables of two neighbouring tags say where spans start and end."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from fastkeras.crf.tag_schemes import LETTERS, OUTSIDE, parse, scheme_of
from fastkeras.training.arguments import one_of

SCHEMES = [scheme for scheme in LETTERS if scheme != "IOB1"]  # that needs more than two tags


class SpanTables(NamedTuple):
    """What two neighbouring tags mean; the index num_tags stands for outside the sequence."""

    starts: Any  # bool (num_tags + 1, num_tags + 1): [i, j], whether a span starts at j after i
    ends: Any  # bool, same shape: [i, j], whether one ends at i before j
    kind: Any  # int (num_tags + 1,): index into kinds
    may_start: Any  # bool (num_tags + 1,): whether a span with this first tag counts
    may_end: Any  # bool (num_tags + 1,)
    kinds: tuple


def span_tables(names, scheme=None):
    """The tables for these names of tags, strictly by a scheme, or by the rules of conlleval."""
    if scheme is not None:
        one_of("scheme", scheme, SCHEMES)
    if isinstance(names, str):
        raise ValueError(f"names must be a list of the names of the tags, got {names!r}")
    if not len(names):
        raise ValueError("names must be the names of the tags, got none")
    tags = [*(parse(name, scheme or scheme_of(names)) for name in names), OUTSIDE]
    kinds = tuple(sorted({kind or "_" for letter, kind in tags if letter != "O"})) or ("_",)
    may_start = may_end = "BIES"
    if scheme is not None:  # in the letters of BIOES
        may_start, may_end = ("B", "BI") if LETTERS[scheme] == "BIO" else ("BS", "ES")

    def table(holds):
        return np.array([[holds(before, after) for after in tags] for before in tags])

    return SpanTables(
        table(_starts),
        table(_ends),
        np.array([0 if tag[0] == "O" else kinds.index(tag[1] or "_") for tag in tags], np.int32),
        np.array([tag[0] in may_start for tag in tags]),
        np.array([tag[0] in may_end for tag in tags]),
        kinds,
    )


def check_names(names, layer):
    """Raise ValueError if the tags of a layer, where they are known, are more or fewer."""
    num_tags = getattr(layer, "num_tags", None)
    if num_tags not in (None, len(names)):
        raise ValueError(
            f"names must be the names of the {num_tags} tags of the layer {layer.name!r}, got "
            f"{len(names)}: {', '.join(names)}"
        )


def counted_spans(tables, tags, found, valid, weights):
    """Counts over the batch, by type: right spans, spans in `found`, spans in `tags`.

    Args:
        tables: `SpanTables`.
        tags, found: int32, shape (batch, steps).
        valid: bool, shape (batch, steps).
        weights: shape (batch,).

    Returns:
        Shape (num_types, 3), dtype of the weights.
    """
    of_sequences = spans_of_sequences(tables, tags, found, valid, weights.dtype)
    return ops.sum(of_sequences * weights[:, None, None], axis=0)


def spans_of_sequences(tables, tags, found, valid, dtype="float32"):
    """The counts of `counted_spans` for each sequence, (batch, num_types, 3), unweighted."""
    t = ops.arange(ops.shape(valid)[1], dtype="int32")
    order = ops.argsort(ops.where(valid, t, t + ops.shape(valid)[1]), axis=1)
    valid = ops.take_along_axis(valid, order, axis=1)  # the valid steps to the front
    outside = len(tables.kind) - 1
    true, other = (
        _edges(tables, ops.where(valid, ops.take_along_axis(x, order, axis=1), outside))
        for x in (tags, found)
    )
    begun_alike = true.starts & other.starts & (true.kind == other.kind)
    right = true.ends & other.ends & at_the_last(true.starts | other.starts, begun_alike)
    right = right & true.whole & other.whole
    one_hot = ops.one_hot(true.kind, len(tables.kinds), dtype=dtype)
    one_hot_found = ops.one_hot(other.kind, len(tables.kinds), dtype=dtype)
    sums = (
        ops.einsum("bt,btk->bk", ops.cast(here, dtype), of_kind)
        for here, of_kind in ((right, one_hot), (other.whole, one_hot_found), (true.whole, one_hot))
    )
    return ops.stack(list(sums), axis=2)


class _Edges(NamedTuple):
    starts: Any  # bool (batch, steps)
    ends: Any
    whole: Any  # where a span that counts ends
    kind: Any  # int (batch, steps)


def _edges(tables, tags):
    size = len(tables.kind)
    # a label out of range, where another library masks the step for instance, is in no span
    tags = ops.where((tags >= 0) & (tags < size), tags, size - 1)
    outside = ops.full_like(tags[:, :1], size - 1)
    before = ops.concatenate([outside, tags[:, :-1]], axis=1)
    after = ops.concatenate([tags[:, 1:], outside], axis=1)

    def look_up(table, index):
        return ops.take(ops.convert_to_tensor(table.reshape(-1)), index)

    starts = look_up(tables.starts, before * size + tags)
    ends = look_up(tables.ends, tags * size + after)
    whole = ends & look_up(tables.may_end, tags)
    whole = whole & at_the_last(starts, look_up(tables.may_start, tags))
    return _Edges(starts, ends, whole, look_up(tables.kind, tags))


def at_the_last(flags, values):
    """At each step, the value at the last flag up to this step; anything before the first flag."""
    t = ops.arange(ops.shape(flags)[1], dtype="int32")
    flagged = ops.argsort(ops.where(flags, t, t + ops.shape(flags)[1]), axis=1)
    rank = ops.cumsum(ops.cast(flags, "int32"), axis=1)
    last = ops.take_along_axis(flagged, ops.maximum(rank - 1, 0), axis=1)
    return ops.take_along_axis(values, last, axis=1)


def _starts(before, after):
    letter, kind = after
    if letter == "O":
        return False
    return letter in "BS" or before[0] in "OES" or before[1] != kind


def _ends(before, after):
    letter, kind = before
    if letter == "O":
        return False
    return letter in "ES" or after[0] in "BSO" or after[1] != kind
