"""Which tokens may come next: the rules that beam search and sampling share."""

import numpy as np

from fastkeras.seq2seq.arguments import integer


class TokenRules:
    """Lengths, suppressed tokens, and the prefixes that sentences are forced to begin with."""

    def __init__(self, end, min_length, max_length, suppressed, prefix, batch):
        self.end = integer("end", end, 0)
        self.max_length = integer("max_length", max_length, 0)
        self.min_length = integer("min_length", min_length, 0, max_length)
        self.suppressed = [integer("suppressed", token, 0) for token in suppressed]
        if end in self.suppressed:
            raise ValueError(f"suppressed must not hold end={end}: no sequence could end")
        self.prefix = None if prefix is None else self._checked(np.asarray(prefix), batch)

    def allowed(self, t, sentences, vocabulary):
        """Booleans (rows, vocabulary) for token number t of each sentence, or None if all may."""
        for name, tokens in (("end", [self.end]), ("suppressed", self.suppressed)):
            if tokens and max(tokens) >= vocabulary:
                raise ValueError(
                    f"{name} must be tokens in 0..{vocabulary - 1}, which step has logits of, got "
                    f"{max(tokens)}"
                )
        is_forced = self._is_forced(t, sentences)
        if not (self.suppressed or t < self.min_length or t == self.max_length or any(is_forced)):
            return None
        allowed = np.full((len(sentences), vocabulary), t < self.max_length)
        allowed[:, self.suppressed] = False
        allowed[:, self.end] = t >= self.min_length
        if any(is_forced):
            forced = self.prefix[sentences[is_forced], t]
            if forced.max() >= vocabulary:
                raise ValueError(
                    f"prefix must be tokens in 0..{vocabulary - 1}, or negative, got {forced.max()}"
                )
            allowed[is_forced] = False
            allowed[np.flatnonzero(is_forced), forced] = True
        return allowed

    def _is_forced(self, t, sentences):
        if self.prefix is None or t >= self.prefix.shape[1]:
            return np.zeros(len(sentences), bool)
        return (self.prefix[sentences, : t + 1] >= 0).all(axis=1)

    def _checked(self, prefix, batch):
        if prefix.dtype.kind not in "iu" or prefix.ndim != 2 or len(prefix) != batch:
            raise ValueError(
                f"prefix must be integers of shape (batch, steps) = ({batch}, steps), got "
                f"{prefix.dtype} of shape {prefix.shape}"
            )
        tokens = np.logical_and.accumulate(prefix >= 0, axis=1)
        if (tokens.sum(axis=1) > self.max_length).any():
            raise ValueError(f"prefix must have at most max_length={self.max_length} tokens")
        if (prefix[tokens] == self.end).any():
            raise ValueError(f"prefix must not hold end={self.end}: nothing would follow")
        return prefix
