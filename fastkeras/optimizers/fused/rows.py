"""Which rows of a variable a step moves: all, or those that a gradient has."""

from fastkeras import _engines
from fastkeras.optimizers.fused import sparse
from fastkeras.optimizers.rules import RULES


def taken(optimizer, gradients, variables, positions, engine):
    """Return gradients, and for variables of which only some rows are to move, those rows."""
    taken, rows = [], []
    for gradient, variable, position in zip(gradients, variables, positions, strict=True):
        is_lazy, of_gradient = are_chosen(optimizer, gradient, variable, position), None
        if not is_lazy or sparse.ON_JAX or _engines.name_of(engine) == "keras":
            gradient = sparse.dense(gradient)
            of_gradient = sparse.mask_of(gradient) if is_lazy else None
        else:
            gradient, of_gradient = sparse.rows_of(gradient)
        taken.append(gradient)
        rows.append(of_gradient)
    return taken, rows


def are_chosen(optimizer, gradient, variable, position):
    """Tell whether only rows of the gradient move, and their slots: lazily, or by the rule."""
    everything = RULES[optimizer._rule()].stays == "everything"
    by_the_rule = everything and _stay(optimizer, gradient, variable, position)
    return optimizer._settings.lazy[position] or by_the_rule


def keep(optimizer, gradients, variables, positions, values, slots):
    """Reduce the values to be written to the rows that may have moved."""
    for i, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
        if _stay(optimizer, gradient, variable, positions[i]):
            values[i] = sparse.at_rows_of(gradient, values[i])
            if RULES[optimizer._rule()].stays == "everything":
                slots[i] = [sparse.at_rows_of(gradient, slot) for slot in slots[i]]


def _stay(optimizer, gradient, variable, position):
    """Tell whether by the rule itself rows stay that a sparse gradient lacks."""
    settings = optimizer._settings
    return (
        sparse.is_sparse(gradient)
        and RULES[optimizer._rule()].stays != ""
        and not optimizer._decay_of(position, variable)
        and not settings.adapted[position]
        and not settings.chains[position]
    )
