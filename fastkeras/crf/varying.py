"""The door of the functions whose transitions may vary with the step, and the engines for it."""

from functools import partial

from fastkeras._engines import engine_for
from fastkeras.crf.arguments import chain_arguments, rank_of

door = partial(chain_arguments, may_vary=True)


def functions_for(emissions, transitions, engine, checkpoint=False):
    """The engine's module, or with `checkpoint` what computes recursions twice, if it has that."""
    if rank_of(transitions) in (3, 4):
        what = "transitions that vary with the step"
        functions = engine_for("crf", emissions, engine, "VARYING_TRANSITIONS", what)
    else:
        functions = engine_for("crf", emissions, engine)
    return getattr(functions, "checkpointed", functions) if checkpoint else functions
