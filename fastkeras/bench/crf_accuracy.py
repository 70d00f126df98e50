"""The exact results of the CRF's functions, and the errors of a provider against them."""

import numpy as np

from fastkeras import crf
from fastkeras.bench.crf import Problem

# Tags, and steps of all sequences; for more, the native engine in float64 is exact enough.
LARGEST_FOR_REFERENCE, LONGEST_FOR_REFERENCE = 128, 50_000


def exact(problem):
    """The problem in float64, with its values, gradients, and the scores of the best paths."""
    wide = Problem(*(a.astype(np.float64) if a.dtype.kind == "f" else a for a in problem))
    x, tags, a, lengths, start, end = wide
    small = a.shape[0] <= LARGEST_FOR_REFERENCE and lengths.sum() <= LONGEST_FOR_REFERENCE
    chain = {"start_transitions": start, "end_transitions": end}
    chain["engine"] = "reference" if small else None
    value, gradients = crf.log_likelihood_and_gradients(x, tags, a, lengths, **chain)
    score = crf.viterbi(x, a, lengths, **chain)[1]
    return wide, value, gradients, score


def check(function, found, problem, exact):
    """Assert that the results are right to the accuracy of float32, and return the errors."""
    wide, value, gradients, score = exact
    x, _, a, lengths, start, end = wide
    if function == "viterbi":
        chain = {"start_transitions": start, "end_transitions": end, "engine": "reference"}
        lost = np.abs(score - crf.sequence_score(x, found, a, lengths, **chain)).max()
        assert lost <= 1e-5 * max(np.abs(score).max(), np.abs(x).max()), (
            f"the path is {lost} worse than the best"
        )
        return {"error": float(lost)}
    values = found if function == "log-likelihood" else found[0]
    error = np.abs(values - value).max()
    scale = max(np.abs(value).max(), np.abs(x).max())  # the likelihood of a single tag is exactly 0
    assert error <= 1e-4 * scale, f"log-likelihood is wrong by {error}"
    if function == "log-likelihood":
        return {"error": float(error)}
    valid = problem.valid()[..., None]
    gradient_error = np.abs(np.where(valid, found[1] - gradients.emissions, 0)).max()
    counts_error = np.abs(found[2] - gradients.transitions).max()
    assert gradient_error <= 1e-2, f"the gradient of the emissions is wrong by {gradient_error}"
    assert counts_error <= 1e-3 * lengths.sum(), f"that of the transitions by {counts_error}"
    return {"error": float(error), "gradient_error": float(gradient_error)}
