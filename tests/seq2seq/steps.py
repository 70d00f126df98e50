"""Steps of a search drawn by hypothesis, and the enumeration of all their continuations."""

import math

import numpy as np
from hypothesis import strategies as st

VOCABULARIES = (1, 2, 3, 7, 16, 17, 64, 65, 130, 300)


@st.composite
def steps(draw, dtype=None, forbids=True):
    """Draw the keyword arguments of `select`."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    batch, beams = draw(st.integers(1, 4), label="batch"), draw(st.integers(1, 5), label="beams")
    vocabulary = draw(st.sampled_from(VOCABULARIES), label="vocabulary")
    scale = draw(st.sampled_from((0.1, 1.0, 30.0, 1000.0)), label="scale")
    dtype = dtype or draw(st.sampled_from(("float32", "float64")), label="dtype")
    logits = (scale * rng.standard_normal((batch, beams, vocabulary))).astype(dtype)
    scores = -np.abs(scale * rng.standard_normal((batch, beams))).astype(dtype)
    if draw(st.booleans(), label="ties"):
        logits, scores = np.round(logits), np.round(scores)
        logits[rng.random((batch, beams)) < 0.3] = 0
    if forbids and draw(st.booleans(), label="forbids"):
        logits[rng.random(logits.shape) < 0.3] = -np.inf
        scores[rng.random(scores.shape) < 0.3] = -np.inf
    step = {
        "logits": logits,
        "scores": scores,
        "num_candidates": draw(st.sampled_from((1, 2, 5, 8, 40)), label="num_candidates"),
    }
    if draw(st.booleans(), label="history"):
        length = draw(st.integers(0, 8), label="steps")
        step["history"] = rng.integers(0, min(vocabulary, 4), (batch, beams, length))
        for row in step["history"].reshape(-1, length) if length else ():
            row[rng.integers(0, length + 1) :] = -rng.integers(1, 9)
        step["repetition_penalty"] = draw(st.sampled_from((1.0, 0.5, 1.3)), label="penalty")
        step["no_repeat_ngram"] = draw(st.integers(0, 3), label="no_repeat_ngram")
    rows = draw(st.sampled_from((0, 1, batch)), label="rows of allowed")
    if rows:
        allowed = rng.random((rows, vocabulary)) < draw(st.sampled_from((0.05, 0.9)))
        step["allowed"] = allowed[0] if rows == 1 and draw(st.booleans()) else allowed
        if draw(st.booleans(), label="of beams"):
            shape = rows, draw(st.sampled_from((1, beams))), vocabulary
            step["allowed"] = rng.random(shape) < 0.5
    return step


def enumerated(step):
    """The continuations of each sentence, (score, parent, token), best first; in Python floats."""
    for b, logits in enumerate(step["logits"].tolist()):
        found = []
        for parent, row in enumerate(logits):
            peak = max(row)
            if step["scores"][b, parent] == -math.inf or peak == -math.inf:
                continue
            log_z = math.log(math.fsum(math.exp(x - peak) for x in row))
            history = []
            for token in step["history"][b, parent].tolist() if "history" in step else ():
                if token < 0:
                    break
                history.append(token)
            for token, x in enumerate(row):
                log_p = (x - peak) - log_z
                if token in history:
                    log_p *= step["repetition_penalty"]
                if is_possible(step, (b, parent), history, token) and log_p > -math.inf:
                    found.append((float(step["scores"][b, parent]) + log_p, parent, token))
        yield sorted(found, key=lambda candidate: (-candidate[0], *candidate[1:]))


def is_possible(step, place, history, token):
    """Whether a token is allowed and repeats no n-gram."""
    if "allowed" in step:
        allowed = np.atleast_2d(step["allowed"])
        allowed = allowed[:, None] if allowed.ndim == 2 else allowed
        if not np.broadcast_to(allowed, step["logits"].shape)[(*place, token)]:
            return False
    n = step.get("no_repeat_ngram", 0)
    grams = [tuple(history[i : i + n]) for i in range(len(history) - n + 1)]
    longer = [*history, token]
    return n == 0 or len(longer) < n or tuple(longer[-n:]) not in grams
