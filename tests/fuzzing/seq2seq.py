"""Correct, small calls of the door of beam searches."""

from fastkeras import _core


def seq2seq_select(rng):
    batch, beams, vocabulary, steps = rng.integers((0, 1, 1, 0), (5, 5, 150, 7))
    dtype = rng.choice(("f4", "f8"))
    history = rng.integers(-1, vocabulary, (batch, beams, steps)).astype("i4")
    axes = (1 if rng.random() < 0.3 else size for size in (batch, beams))
    allowed = rng.random((*axes, vocabulary)) < 0.7
    return _core.seq2seq_select, {
        "logits": rng.standard_normal((batch, beams, vocabulary)).astype(dtype),
        "scores": rng.standard_normal((batch, beams)).astype(dtype),
        "history": history if rng.random() < 0.6 else None,
        "allowed": allowed if rng.random() < 0.4 else None,
        "repetition_penalty": float(rng.random() + 0.5),
        "no_repeat_ngram": int(rng.integers(4)),
        "num_candidates": int(rng.integers(1, 12)),
    }


CALLS = {"seq2seq_select": seq2seq_select}
