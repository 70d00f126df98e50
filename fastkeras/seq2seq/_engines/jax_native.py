"""The C++ kernel as a call of XLA, for JAX arrays on the CPU, eagerly and in compiled programs."""

import numpy as np
from jax import ShapeDtypeStruct
from jax import numpy as jnp

from fastkeras._ops.jax import enable_x64, on_numpy_arrays, op

NO_HISTORY, ALL = np.zeros((0, 0, 0), "int32"), np.zeros((0, 0, 0), bool)


def select(step, num_candidates):
    history = NO_HISTORY if step.history is None else step.history
    allowed = ALL if step.allowed is None else step.allowed
    arrays = step.logits, step.scores, history, allowed
    attributes = {"num_candidates": num_candidates, "no_repeat_ngram": step.no_repeat_ngram}
    if step.family == "numpy":
        return on_numpy_arrays(_select, *arrays, np.float64(step.repetition_penalty), **attributes)
    with enable_x64(True):
        penalty = jnp.asarray(step.repetition_penalty, "float64")
        return _select(*arrays, penalty, **attributes)


_select = op(
    "fastkeras_seq2seq_select",
    lambda x, *_, num_candidates, no_repeat_ngram: tuple(
        ShapeDtypeStruct((x.shape[0], num_candidates), dtype)
        for dtype in (x.dtype, "int32", "int32")
    ),
    "the scores of select",
    "engine='keras' can",
)
