"""Which tokens may come next: the rules that beam search and sampling share."""

import numpy as np

from fastkeras._arrays import array_functions, has_values
from fastkeras.seq2seq.arguments import integer


class TokenRules:
    """Lengths, suppressed tokens, and the prefixes that sentences begin with.

    `prefix` is int32, (batch, max_length + 1): negative from the first number on that no prefix
    has; None without any.
    """

    def __init__(self, end, min_length, max_length, suppressed, prefix=None, batch=None):
        self.end = integer("end", end, 0)
        self.max_length = integer("max_length", max_length, 0)
        self.min_length = integer("min_length", min_length, 0, max_length)
        self.suppressed = [integer("suppressed", token, 0) for token in suppressed]
        if end in self.suppressed:
            raise ValueError(f"suppressed must not hold end={end}: no sequence could end")
        self.largest_of_prefix = -1  # stays so where values are not known
        self.prefix = None if prefix is None else self._checked(prefix, batch)

    def allowed(self, arrays, t, prefix, vocabulary):
        """Booleans (rows or 1, vocabulary) for token number t, or None if all may come.

        Args:
            arrays: the functions for the arrays (fastkeras/_arrays.py).
            t: an integer, also one in a compiled program.
            prefix: the prefixes that the rows are forced to begin with, or None.
        """
        self.check(vocabulary)
        words = arrays.arange(vocabulary, dtype="int32")
        is_end, may = words == self.end, None
        if self.suppressed or self.min_length > 0 or not isinstance(t, int) or t == self.max_length:
            banned = np.zeros(vocabulary, bool)
            banned[self.suppressed] = True
            banned = arrays.convert_to_tensor(banned)
            may = (is_end & (t >= self.min_length)) | (~(is_end | banned) & (t < self.max_length))
            may = may[None]
        if prefix is not None:
            forced = arrays.take(prefix, t, axis=1)[:, None]
            is_free = forced < 0
            may = (words == forced) | (is_free if may is None else is_free & may)
        return may

    def check(self, vocabulary):
        """Raise ValueError if a token of the rules is not in the vocabulary."""
        for name, largest in (
            ("end", self.end),
            ("suppressed", max(self.suppressed, default=-1)),
            ("prefix", self.largest_of_prefix),
        ):
            if largest >= vocabulary:
                also = ", or negative" if name == "prefix" else ", which step has logits of"
                raise ValueError(
                    f"{name} must be tokens in 0..{vocabulary - 1}{also}, got {largest}"
                )

    def _checked(self, prefix, batch):
        arrays = array_functions(prefix)
        if has_values(prefix):
            prefix = np.asarray(arrays.convert_to_numpy(prefix))
            arrays = array_functions(prefix)
            is_matrix = prefix.dtype.kind in "iu" and prefix.ndim == 2
            if not is_matrix or (isinstance(batch, int) and len(prefix) != batch):
                raise ValueError(
                    f"prefix must be integers of shape (batch, steps) = ({batch}, steps), got "
                    f"{prefix.dtype} of shape {prefix.shape}"
                )
            is_token = np.logical_and.accumulate(prefix >= 0, axis=1)
            if (is_token.sum(axis=1) > self.max_length).any():
                raise ValueError(f"prefix must have at most max_length={self.max_length} tokens")
            if (prefix[is_token] == self.end).any():
                raise ValueError(f"prefix must not hold end={self.end}: nothing would follow")
            self.largest_of_prefix = int(prefix[is_token].max(initial=-1))
        prefix = arrays.cast(prefix, "int32")[:, : self.max_length]
        ended = arrays.cumsum(arrays.cast(prefix < 0, "int32"), axis=1) > 0
        prefix = arrays.where(ended, -1, prefix)
        rows, steps = arrays.shape(prefix)
        rest = -arrays.ones((rows, self.max_length + 1 - steps), "int32")
        return arrays.concatenate([prefix, rest], axis=1)
