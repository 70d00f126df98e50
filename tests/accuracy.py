"""The tolerance rule that all tests share."""

import numpy as np

WIDER = {"float32": "float64", "float64": "longdouble"}
ULPS = 4  # roundings in a computation: a sum of two scores, exp, log, a quotient


def assert_as_accurate_as_reference(result, exact, rounded, scale, largest_sum=0.0, steps=1):
    """Assert |engine − exact| <= 2 · |reference in the same dtype − exact| + ULPS ulp.

    Both errors are the largest over the array, since the reference may be exact by luck in some
    places. The ulp is that of the dtype at the largest magnitude that occurs: of the results, of a
    score (`scale`), or exp(0) = 1. Sums over steps may be accumulated in float64, so an ulp of
    float64 at the `largest_sum` is added. −inf has to be −inf; nothing may be NaN.

    Args:
        result, exact, rounded: arrays; of the engine, of the reference in the next wider type, and
            of the reference in the dtype that the engine computes in.
        scale: the largest magnitude of a score that can matter, see `largest_score`.
        largest_sum: the largest magnitude of a sum over the steps, 0 if the result is not a sum.
        steps: how many times in a row the computation is applied; ULPS is for one.
    """
    assert result.shape == exact.shape
    assert not np.isnan(result).any()
    possible = ~np.isneginf(exact)
    np.testing.assert_array_equal(~np.isneginf(result), possible)
    error = _largest(result[possible].astype(exact.dtype) - exact[possible])
    scale = np.asarray(max(1, _largest(exact[possible]), scale), rounded.dtype)
    allowed = 2 * _largest(rounded[possible].astype(exact.dtype) - exact[possible])
    allowed += (
        ULPS * steps * (np.spacing(scale).astype(exact.dtype) + np.spacing(float(largest_sum)))
    )
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


def _largest(array):
    return np.abs(array).max(initial=0)
