"""Beam search on batches, driven by a function that does one step of a model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastkeras._arrays import NUMPY, array_functions, dtype_of, family_of
from fastkeras.seq2seq.arguments import integer, number, positive
from fastkeras.seq2seq.beams import Beams, first_beams, next_beams
from fastkeras.seq2seq.hypotheses import Hypotheses, hypotheses_of
from fastkeras.seq2seq.states import (
    arrays_of,
    batch_of,
    is_traced,
    kept,
    like_structure,
    map_arrays,
    to_numpy,
)
from fastkeras.seq2seq.tokens import TokenRules
from fastkeras.training.arguments import flag

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkeras.typing import ArrayLike

FEW = 0.75  # share of unfinished sentences at which the finished ones leave the batch


@dataclass(frozen=True)
class BeamSearch:
    """Beam search: for each sentence, the hypotheses with the highest scores that it encounters.

    A hypothesis is a sequence of min_length to max_length tokens, followed by the end token. Its
    score is log p / length^length_penalty, with log p the model's log-likelihood of the tokens and
    the end, and their number as the length. In each step the `num_beams` best beginnings of each
    sentence are continued; see docs/seq2seq.md.

    Args:
        end: the token that ends a sequence.
        num_beams: how many beginnings are kept, at least 1. One beam is greedy search.
        n_best: how many hypotheses to return, at least 1; if more than `num_beams`, some may not
            be found. With several groups, so many of each.
        min_length, max_length: how many tokens a hypothesis has, without the end.
        length_penalty: 0 for the log-likelihood, 1 for its average; more favours longer sequences.
        coverage_penalty: at least 0; this many times Σ log min(1, attention to a step of the
            source) is added to the score. Needs a step that returns its attention.
        repetition_penalty, no_repeat_ngram: as in `select`; with a penalty, log p includes it.
        suppressed: tokens that no hypothesis may contain.
        temperature: above 0; logits are divided by it, and log p is that of the result.
        num_groups: beams are divided into so many groups, which are searched one after another,
            and avoid the tokens that groups before them have chosen in the same step.
        diversity_penalty: at least 0: what a token loses for each time that it was chosen. It
            counts for the choice, not for the score.
        prefix_bias: above 0, at most 1. Below 1, a prefix is not forced: while a hypothesis
            follows it, p becomes (1 − prefix_bias) p, plus prefix_bias for the prefix's token, and
            log p is that of the result.
        early_stopping: whether to stop searching for a sentence once the result can no longer
            change. False goes on to `max_length`, with the same result.
        patience: stop also when patience · num_beams hypotheses of a sentence have ended, in each
            of its groups, which may miss better ones; None does not.
        return_attention: whether to return the attention too; it needs a step that returns it.
        engine: as in `select`.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> import numpy as np
        >>> from fastkeras.seq2seq import BeamSearch
        >>> following = np.log([[0.1, 0.6, 0.3], [0.4, 0.1, 0.5], [0.4, 0.3, 0.3]])
        >>> def step(tokens, states, context, ancestry):
        ...     return following[tokens], states, context
        >>> search = BeamSearch(end=0, num_beams=3, max_length=3)
        >>> found = search(step, start=[0, 1])
        >>> found.tokens.tolist(), found.lengths.tolist(), np.exp(found.scores).round(2).tolist()
        ([[[1]], [[0]]], [[1], [0]], [[0.24], [0.4]])

    Source: Sutskever, Vinyals & Le, 2014; the exact stop is that of Huang, Zhao & Ma, 2017, "When
    to finish? Optimal beam search for neural text generation", for any length penalty; the coverage
    penalty is that of Wu et al., 2016, "Google's neural machine translation system", section 7; the
    groups are those of Vijayakumar et al., 2016, "Diverse beam search"; patience is that of Kasai
    et al., 2022, "A call for clarity in beam search".
    """

    end: int
    num_beams: int = 4
    n_best: int = 1
    min_length: int = 0
    max_length: int = 64
    length_penalty: float = 0.0
    coverage_penalty: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    suppressed: tuple[int, ...] = ()
    temperature: float = 1.0
    num_groups: int = 1
    diversity_penalty: float = 0.0
    prefix_bias: float = 1.0
    early_stopping: bool = True
    patience: float | None = None
    return_attention: bool = False
    engine: str | None = None

    def __post_init__(self) -> None:
        integer("num_beams", self.num_beams, 1)
        integer("n_best", self.n_best, 1)
        number("length_penalty", self.length_penalty)
        positive("repetition_penalty", self.repetition_penalty)
        integer("no_repeat_ngram", self.no_repeat_ngram, 0)
        positive("temperature", self.temperature)
        for name in ("coverage_penalty", "diversity_penalty"):
            number(name, getattr(self, name), lambda value: value >= 0, " of at least 0")
        integer("num_groups", self.num_groups, 1, self.num_beams)
        if self.num_beams % self.num_groups:
            raise ValueError(
                f"num_beams must be a multiple of num_groups={self.num_groups}, got "
                f"{self.num_beams}"
            )
        number("prefix_bias", self.prefix_bias, lambda b: 0 < b <= 1, " above 0 and at most 1")
        if self.patience is not None:
            positive("patience", self.patience)
        flag("early_stopping", self.early_stopping)
        flag("return_attention", self.return_attention)
        self._rules()

    def __call__(
        self,
        step: Callable[[Any, Any, Any, Any], tuple[Any, ...]],
        states: Any = None,
        context: Any = None,
        *,
        start: int | ArrayLike,
        prefix: ArrayLike | None = None,
        allowed: ArrayLike | Callable[..., Any] | None = None,
        source_mask: ArrayLike | None = None,
    ) -> Hypotheses:
        """Search for all sentences of a batch.

        Args:
            step: a function of (tokens, states, context, ancestry) that returns the logits of the
                next tokens, (batch, beams, vocabulary), the new states, and the context; and where
                it is asked for, the attention, floats, (batch, beams, source steps).
                tokens: int32, (batch, beams), the last token of each hypothesis.
                states: arrays that belong to hypotheses, each (batch, beams, …).
                context: arrays that belong to sentences: the output of an encoder, and caches of
                    keys and values for all hypotheses, (batch, beams, steps, …), which are never
                    reordered.
                ancestry: int32, (batch, beams, steps so far): the beam in which each token of a
                    hypothesis was given to `step`, which is its place in such a cache. In a
                    compiled program (batch, beams, max_length + 1), with −1 for steps to come.
                In later steps the batch may be smaller, since finished sentences leave it, unless
                the program is compiled.
            states, context: arrays (batch, …) in dicts, lists and tuples, or None. States are
                repeated for all beams before the first step.
            start: the token to begin with: an integer, or integers of shape (batch,).
            prefix: integers, (batch, steps): the tokens that the hypotheses of a sentence must
                begin with; a negative number ends them.
            allowed: the tokens that may come, and the end if it may: booleans (vocabulary,) or
                (batch, vocabulary), or a function that returns booleans which broadcast to (batch,
                beams, vocabulary), of (t, history, sentences): the number of tokens so far, these
                tokens, int32 (batch, beams, t), and the places of the sentences in the batch. In a
                compiled program history is (batch, beams, max_length + 1), −1 from t on.
            source_mask: booleans (batch, source steps), false where the source is padding; for the
                coverage penalty and for returning attention.

        Returns:
            `Hypotheses`. Inside of a program that TensorFlow or JAX compiles, the whole search
            becomes a loop of it, and the results are tensors.

        Raises:
            ValueError: arguments that do not fit each other, logits of another shape, or logits of
                NaN or +inf, with the sentence and the step. A compiled program cannot raise for
                values; there the scores of the sentence are NaN.
        """
        search = _left_as_it_is(self._search)
        return search(step, states, context, start, prefix, allowed, source_mask)

    def _search(self, step, states, context, start, prefix, allowed, source_mask):
        batch = batch_of(start, states, context)
        rules = self._rules(prefix, batch)
        given = _Given(rules.prefix, source_mask, None if callable(allowed) else allowed)
        allowed = allowed if callable(allowed) else None
        if is_traced(start, prefix, source_mask, given.allowed, states, context):
            return self._compiled(step, rules, allowed, batch, start, given, states, context)
        return self._in_python(step, rules, allowed, batch, start, given, states, context)

    def _rules(self, prefix=None, batch=None):
        return TokenRules(
            self.end, self.min_length, self.max_length, self.suppressed, prefix, batch
        )

    def _in_python(self, step, rules, allowed, batch, start, given, states, context):
        """The loop in Python, which finished sentences leave."""
        given = _Given(*(None if array is None else to_numpy(array) for array in given))
        given = self._checked(NUMPY, given, batch)
        start = np.asarray(to_numpy(start))
        beams = first_beams(self, NUMPY, batch, "float64", start, given, states, context)
        left = []
        for t in range(self.max_length + 1):
            rows = len(beams.sentences)
            if not rows:
                break
            beams = next_beams(self, rules, step, allowed, NUMPY, t, beams)
            is_open = (beams.scores > -np.inf).any(axis=1)
            if t == self.max_length:
                is_open[:] = False
            if is_open.sum() <= FEW * rows:
                left.append(_leaving(beams, np.flatnonzero(~is_open)))
                beams = kept(beams, np.flatnonzero(is_open))
        return _in_order([*left, _leaving(beams, np.arange(len(beams.sentences)))])

    def _compiled(self, step, rules, allowed, batch, start, given, states, context):
        """The same as a loop of the program that is being traced."""
        every = arrays_of(start, *given, states, context)
        tensors = [array for array in every if family_of(array) != "numpy"]
        if tensors:
            arrays = array_functions(tensors[0])
        else:  # inside of a tf.function only the model has tensors
            from keras import ops as arrays
        given = self._checked(arrays, given, batch)
        states, context = (map_arrays(arrays.convert_to_tensor, s) for s in (states, context))
        dtypes = {dtype_of(array) for array in arrays_of(states, context)}
        dtype = "float64" if "float64" in dtypes else "float32"
        first = first_beams(self, arrays, batch, dtype, start, given, states, context)

        def goes_on(t, *flat):
            beams = like_structure(first, flat)
            return (t <= self.max_length) & arrays.any(beams.scores > -np.inf)

        def body(t, *flat):
            beams = like_structure(first, flat)
            beams = next_beams(self, rules, step, allowed, arrays, t, beams)
            return t + 1, *_like_before(arrays, beams, flat)

        zero = arrays.zeros((), "int32")
        _, *flat = arrays.while_loop(goes_on, body, (zero, *arrays_of(first)))
        beams = like_structure(first, flat)
        return hypotheses_of(arrays, beams.ended, beams.attention)

    def _checked(self, arrays, given, batch):
        """The source's mask and the allowed tokens, in the form that the loop has them."""
        prefix, source_mask, allowed = given
        if source_mask is not None:
            source_mask = arrays.convert_to_tensor(source_mask)
            if dtype_of(source_mask) != "bool" or len(source_mask.shape) != 2:
                raise ValueError(
                    f"source_mask must be booleans of shape (batch, source steps), got "
                    f"{dtype_of(source_mask)} of shape {tuple(source_mask.shape)}"
                )
            if isinstance(batch, int) and source_mask.shape[0] not in (batch, None):
                raise ValueError(
                    f"source_mask must have {batch} rows, as start, states and context, got "
                    f"{source_mask.shape[0]}"
                )
        elif self.coverage_penalty or self.return_attention:
            raise ValueError(
                "source_mask must be given, booleans of shape (batch, source steps), for "
                "coverage_penalty or return_attention, got None"
            )
        if allowed is not None:
            allowed = arrays.convert_to_tensor(allowed)
            shape = tuple(allowed.shape)
            if dtype_of(allowed) != "bool" or len(shape) not in (1, 2):
                raise ValueError(
                    f"allowed must be booleans of shape (vocabulary,) or (batch, vocabulary), got "
                    f"{dtype_of(allowed)} of shape {shape}"
                )
            allowed = arrays.broadcast_to(allowed, (batch, shape[-1]))[:, None]
        if prefix is not None:
            prefix = arrays.convert_to_tensor(prefix)
        return _Given(prefix, source_mask, allowed)


class _Given(NamedTuple):
    """What belongs to the sentences of a batch, beside the model's own."""

    prefix: Any
    source_mask: Any
    allowed: Any


def _left_as_it_is(function):
    """The function, for calls in code that TensorFlow or torch compiles, without being rewritten.

    AutoGraph takes seconds for it, without any use; torch.compile minutes, since it traces NumPy.
    Nor does torch record gradients, which would keep the data of all steps.
    """
    tensorflow, torch = map(sys.modules.get, ("tensorflow", "torch"))
    if tensorflow is not None and not tensorflow.executing_eagerly():
        return tensorflow.autograph.experimental.do_not_convert(function)
    return function if torch is None else torch.compiler.disable(torch.no_grad()(function))


def _like_before(arrays, beams, before):
    """The arrays of the beams, in the shapes and dtypes that a compiled loop began with."""
    after = arrays_of(beams)
    if len(after) != len(before):
        raise ValueError("step must return states and context of the same structure")
    for array, old in zip(after, before, strict=True):
        if dtype_of(array) != dtype_of(old):
            raise ValueError(
                f"step must return states, context and logits of the dtypes it gets in a compiled "
                f"program, {dtype_of(old)}, got {dtype_of(array)}"
            )
        yield arrays.reshape(array, arrays.shape(old))


def _leaving(beams, rows):
    """The places of these sentences, and what was found."""
    of_rows = kept(Beams(*beams[:-2], None, None), rows)
    return of_rows.sentences, hypotheses_of(NUMPY, of_rows.ended, of_rows.attention)


def _in_order(parts):
    """The hypotheses of all sentences in their order, without the steps that none has."""
    order = np.argsort(np.concatenate([sentences for sentences, _ in parts]))
    of_parts = zip(*(found for _, found in parts), strict=True)
    found = Hypotheses(
        *(None if part[0] is None else np.concatenate(part)[order] for part in of_parts)
    )
    longest = int(found.lengths.max(initial=0))
    attention = found.attention
    return found._replace(
        tokens=found.tokens[..., :longest],
        token_log_likelihoods=found.token_log_likelihoods[..., : longest + 1],
        attention=None if attention is None else attention[:, :, : longest + 1],
    )
