"""bert4keras' `AutoRegressiveDecoder`, on `BeamSearch` and `sample`."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING

import numpy as np

from fastkeras.seq2seq import BeamSearch, sample
from fastkeras.seq2seq.arguments import integer
from fastkeras.training.arguments import flag

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    import keras
    from numpy.typing import NDArray


class AutoRegressiveDecoder:
    """Base class of decoders that define `predict`, which is called with one sample's arrays.

    Results begin with `start_id` and finish with `end_id`, as in bert4keras. What differs:
    `beam_search` returns the best sequence that it encounters, where bert4keras stops at the first
    end that is best in its step; a sequence has its end within `maxlen` tokens, and is never cut
    off; a `min_ends` other than 1 is refused; `states` are passed to `predict` and back as they
    are, and belong to no hypothesis.

    Args:
        start_id: the token to begin with, or None for none.
        end_id: the token that ends a sequence.
        maxlen: the most tokens, without the start.
        minlen: the fewest tokens, with start and end.

    Example:
        >>> import numpy as np
        >>> from fastkeras.compat.bert4keras import AutoRegressiveDecoder
        >>> following = np.array([[0.1, 0.6, 0.3], [0.4, 0.1, 0.5], [0.4, 0.3, 0.3]])
        >>> class Titles(AutoRegressiveDecoder):
        ...     @AutoRegressiveDecoder.wraps(default_rtype="probas")
        ...     def predict(self, inputs, output_ids, states):
        ...         return following[output_ids[:, -1]]
        >>> Titles(start_id=1, end_id=0, maxlen=8).beam_search([np.zeros(3)], topk=3)
        array([1, 0])

    Source: bert4keras.snippets, 0.11.5.
    """

    def __init__(self, start_id: int | None, end_id: int, maxlen: int, minlen: int = 1) -> None:
        self.start_id = None if start_id is None else integer("start_id", start_id, 0)
        self.end_id = integer("end_id", end_id, 0)
        self.maxlen = integer("maxlen", maxlen, 1)
        self.minlen = integer("minlen", minlen, 0)
        self.models: dict[keras.Model, keras.Model] = {}

    @staticmethod
    def wraps(
        default_rtype: str = "probas", use_states: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorate `predict`: it returns probabilities, or logits, (rows, vocabulary).

        Args:
            default_rtype: "probas" or "logits", what the decorated function returns.
            use_states: whether it returns a pair of these and states.

        Raises:
            ValueError: another `default_rtype` or `use_states`, now, or `rtype`, in a call of the
                result.
        """
        if default_rtype not in ("probas", "logits"):
            raise ValueError(f"default_rtype={default_rtype!r} must be 'probas' or 'logits'")
        flag("use_states", use_states)

        def decorate(predict):
            @wraps(predict)
            def changed(self, inputs, output_ids, states, temperature=1, rtype=default_rtype):
                if rtype not in ("probas", "logits"):
                    raise ValueError(f"rtype={rtype!r} must be 'probas' or 'logits'")
                found = predict(self, inputs, output_ids, states)
                scores, states = found if use_states else (found, None)
                scores = np.asarray(scores)
                if default_rtype == "probas":
                    with np.errstate(divide="ignore"):
                        scores = np.log(scores)
                scores = scores / temperature
                scores = scores - scores.max(axis=-1, keepdims=True)
                scores = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
                return (np.exp(scores) if rtype == "probas" else scores), states

            return changed

        return decorate

    def last_token(self, model: keras.Model) -> keras.Model:
        """A model of the last step of this model's output."""
        import keras

        if model not in self.models:
            inputs = model.inputs if len(model.inputs) > 1 else model.inputs[0]
            self.models[model] = keras.Model(inputs, model.outputs[0][:, -1])
        return self.models[model]

    def predict(self, inputs: Sequence[Any], output_ids: NDArray[Any], states: Any = None) -> Any:
        """Scores of the next token, (rows, vocabulary); a subclass defines it.

        Args:
            inputs: the arrays of the sample, each repeated for all rows.
            output_ids: integers, (rows, steps), the tokens so far.
            states: what the call before returned, or those of `beam_search`.
        """
        raise NotImplementedError

    def beam_search(
        self,
        inputs: Sequence[Any],
        topk: int,
        states: Any = None,
        temperature: float = 1,
        min_ends: int = 1,
        **options: Any,
    ) -> NDArray[Any]:
        """The tokens of the best sequence for one sample.

        Args:
            inputs: a list of arrays, those of one sample, without a batch axis.
            topk: the number of beams.
            states: passed to the first call of `predict`.
            temperature: the logits are divided by it.
            min_ends: 1.
            **options: more options of `fastkeras.seq2seq.BeamSearch`, such as `length_penalty`.
        """
        _check_ends(min_ends)
        search = BeamSearch(self.end_id, topk, **self._lengths(), **options)
        step, so_far = self._stepping(inputs, topk, states, temperature)
        found = search(step, so_far, start=self._start())
        return self._sequence(found, 0)

    def random_sample(
        self,
        inputs: Sequence[Any],
        n: int,
        topk: int | None = None,
        topp: float | None = None,
        states: Any = None,
        temperature: float = 1,
        min_ends: int = 1,
        **options: Any,
    ) -> list[NDArray[Any]]:
        """A list of the tokens of `n` sequences that are drawn for one sample.

        Args:
            inputs, states, temperature, min_ends: as in `beam_search`.
            n: how many sequences.
            topk, topp: draw among so many tokens, or among those with this probability together.
            **options: more options of `fastkeras.seq2seq.sample`, such as `seed`.
        """
        _check_ends(min_ends)
        limits = {"top_k": topk or 0, "top_p": topp or 1.0, "num_samples": n, "end": self.end_id}
        step, so_far = self._stepping(inputs, n, states, temperature)
        found = sample(step, so_far, start=self._start(), **limits, **self._lengths(), **options)
        return [self._sequence(found, i) for i in range(n)]

    def _lengths(self):
        own = 1 if self.start_id is None else 2  # the end, and the start
        return {"max_length": self.maxlen - 1, "min_length": max(self.minlen - own, 0)}

    def _start(self):
        return np.array([0 if self.start_id is None else self.start_id])

    def _stepping(self, inputs, rows, states, temperature):
        """A search's step that calls `predict`, and its states: the tokens so far."""
        inputs = [np.repeat(np.asarray(array)[None], rows, axis=0) for array in inputs]
        first = int(self.start_id is None)  # the search always begins with a token

        def step(tokens, so_far, context, ancestry):
            nonlocal states
            n, so_far = ancestry.shape[2], so_far.copy()
            so_far[:, :, n - 1] = tokens
            output_ids = so_far[0, :, first:n]
            scores, states = self.predict(inputs, output_ids, states, temperature, "logits")
            return np.asarray(scores)[None], so_far, context

        return step, np.zeros((1, self.maxlen), int)

    def _sequence(self, found, i):
        """Start, tokens and end of one result."""
        if not found.scores[0, i] > -np.inf:
            raise ValueError("no sequence is possible: predict forbids every token, or the end")
        start = [] if self.start_id is None else [self.start_id]
        return np.array([*start, *found.tokens[0, i, : found.lengths[0, i]], self.end_id])


def _check_ends(min_ends):
    if min_ends != 1:
        raise ValueError(f"min_ends={min_ends!r} must be 1: a sequence ends at its first end_id")
