"""The scores that a CRF layer owns: transitions and boundaries."""

from keras import ops


def add_scores(layer):
    """Create the weights, as the arguments of the layer say."""
    num_tags = layer.num_tags
    layer._transitions = _add(layer, "transitions", (num_tags, num_tags))
    if layer.use_boundaries:
        layer._start = _add(layer, "start_transitions", (num_tags,))
        layer._end = _add(layer, "end_transitions", (num_tags,))


def scores_of(layer):
    """Transitions and boundaries as the functions of `fastkeras.crf` take them."""

    def used(weight):
        return ops.convert_to_tensor(weight) * layer.learning_rate_multiplier

    bounded = layer.use_boundaries
    scores = {
        "transitions": used(layer._transitions),
        "start_transitions": used(layer._start) if bounded else None,
        "end_transitions": used(layer._end) if bounded else None,
    }
    return scores if layer.constraints is None else layer.constraints.apply(**scores)


def _add(layer, name, shape):
    """A weight that is stored divided by the multiplier; initialised and regularised as used."""
    kind = "transitions" if len(shape) == 2 else "boundary"
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
