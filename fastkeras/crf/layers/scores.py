"""The scores that a CRF layer owns: transitions, full or of low rank, and boundaries."""

from keras import ops

from fastkeras.crf.chain import LowRank


def add_scores(layer):
    """Create the weights, as the arguments of the layer say."""
    num_tags, rank = layer.num_tags, layer.transition_rank
    if rank is None:
        layer._transitions = add_score(layer, "transitions", (num_tags, num_tags))
    else:
        layer._left = add_score(layer, "left_factor", (num_tags, rank))
        layer._right = add_score(layer, "right_factor", (num_tags, rank))
    if layer.use_boundaries:
        layer._start = add_score(layer, "start_transitions", (num_tags,))
        layer._end = add_score(layer, "end_transitions", (num_tags,))


def scores_of(layer, factors=False):
    """Transitions and boundaries as the functions of `fastkeras.crf` take them.

    With `factors`, low-rank transitions are not multiplied out, unless there are constraints.
    """

    def used(weight):
        return ops.convert_to_tensor(weight) * layer.learning_rate_multiplier

    if layer.transition_rank is None:
        transitions = used(layer._transitions)
    else:
        transitions = LowRank(used(layer._left), used(layer._right))
        if layer.constraints is not None or not factors:
            transitions = transitions.product()
    bounded = layer.use_boundaries
    scores = {
        "transitions": transitions,
        "start_transitions": used(layer._start) if bounded else None,
        "end_transitions": used(layer._end) if bounded else None,
    }
    return scores if layer.constraints is None else layer.constraints.apply(**scores)


def add_score(layer, name, shape, kind=None):
    """A weight stored divided by the multiplier; initializer and the like see the used value.

    The layer's arguments for it begin with `kind`, which without a name follows from the rank.
    """
    kind = kind or ("boundary", "transitions", "triples")[len(shape) - 1]
    initializer = getattr(layer, f"{kind}_initializer")
    regularizer = getattr(layer, f"{kind}_regularizer")
    constraint = getattr(layer, f"{kind}_constraint")
    multiplier = layer.learning_rate_multiplier
    return layer.add_weight(
        shape,
        lambda shape, dtype: initializer(shape, dtype) / multiplier,
        name=name,
        autocast=False,
        regularizer=regularizer and (lambda weight: regularizer(weight * multiplier)),
        constraint=constraint and (lambda weight: constraint(weight * multiplier) / multiplier),
    )
