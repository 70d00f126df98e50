"""Malformed arguments for the compiled parts, which have to refuse them or do no harm."""

import numpy as np

BAD_INTEGERS = [-1, -(2**63), 2**31, 2**62, 2**70, 1.5, None, "3"]
ERRORS = (ValueError, TypeError, OverflowError, MemoryError)


def malformed(array):
    """Yield arrays, each of which lacks something that a kernel relies on."""
    yield None
    yield "text"
    yield array.tolist()
    yield array.astype(object)
    yield np.zeros(array.shape, np.float16)
    yield np.zeros(array.shape, np.complex64)
    yield array.astype(array.dtype.newbyteorder())
    yield np.float64(3)
    yield array[..., None]
    yield array[0]
    yield array.ravel() if array.ndim > 1 else array[None]
    yield array[::-1]
    yield np.repeat(array, 2, -1)[..., ::2]
    yield np.broadcast_to(array[:1], array.shape)
    shifted = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:]
    yield shifted.view(array.dtype).reshape(array.shape)
    if array.ndim == 2:
        yield np.asfortranarray(array)
        yield array.T
