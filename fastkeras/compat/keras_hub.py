"""Searches with the language models of keras-hub.

Each function returns the arguments for calling a `BeamSearch`, or `sample`:

    found = BeamSearch(end=50256, max_length=30)(**causal_lm(model, prompts, max_length=30))

A model of keras-hub reads one cache for each sequence, so the caches move with the hypotheses, in
each step. `layers.TransformerDecoder` has a cache that does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras import ops

from fastkeras.seq2seq.arguments import integer
from fastkeras.seq2seq.states import step_number

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import ArrayLike


def causal_lm(model: Any, prompts: ArrayLike, *, max_length: int) -> dict[str, Any]:
    """The arguments of a search for continuations of prompts.

    Args:
        model: a `CausalLM` of keras-hub, such as `GPT2CausalLM`, with or without a preprocessor.
        prompts: integers, (batch, steps), steps >= 1, without padding: search separately for
            prompts of different lengths.
        max_length: that of the search.

    Returns:
        A dict of the arguments: the step, its states, and the start.

    Raises:
        ValueError: prompts of another shape; `max_length` is out of its range.

    Example:
        >>> import keras_hub  # doctest: +SKIP
        >>> model = keras_hub.models.GPT2CausalLM.from_preset("gpt2_base_en")  # doctest: +SKIP
        >>> arguments = causal_lm(model, [[464, 3290]], max_length=32)  # doctest: +SKIP
        >>> found = BeamSearch(end=50256, max_length=32)(**arguments)  # doctest: +SKIP

    Source: keras-hub 0.32, `CausalLM.call_with_cache`.
    """
    integer("max_length", max_length, 0)
    prompts = ops.cast(ops.convert_to_tensor(prompts), "int32")
    if len(prompts.shape) != 2 or prompts.shape[1] == 0:
        raise ValueError(f"prompts must have shape (batch, steps >= 1), got {prompts.shape}")
    steps = prompts.shape[1]
    padded = ops.pad(prompts, [[0, 0], [0, max_length]])
    _, cache = model._build_cache(padded)

    def step(tokens, states, context, ancestry):
        place = steps - 1 + step_number(ancestry)
        (cache,), shape = _joined(states), ops.shape(tokens)
        logits, _, cache = model.call_with_cache(ops.reshape(tokens, (-1, 1)), cache, place)
        return (*_apart(shape, logits[:, 0], [cache]), context)

    return {"step": step, "states": [cache], "start": prompts[:, -1]}


def seq_2_seq_lm(
    model: Any, sources: ArrayLike, *, start: int, max_length: int, padding: int | None = None
) -> dict[str, Any]:
    """The arguments of a search for targets of sources.

    Args:
        model: a `Seq2SeqLM` of keras-hub, such as `BartSeq2SeqLM`.
        sources: integers, (batch, steps), the tokens for the encoder.
        start: the token that the decoder begins with.
        max_length: that of the search.
        padding: the token that stands for padding in the sources, 1 for BART; None if none does.

    Returns:
        A dict of the arguments: the step, its states and context, and the start.

    Raises:
        ValueError: `max_length` is out of its range.

    Example:
        >>> import keras_hub  # doctest: +SKIP
        >>> model = keras_hub.models.BartSeq2SeqLM.from_preset("bart_base_en")  # doctest: +SKIP
        >>> arguments = seq_2_seq_lm(model, [[0, 9, 2]], start=2, max_length=32)  # doctest: +SKIP
        >>> found = BeamSearch(end=2, max_length=32)(**arguments)  # doctest: +SKIP

    Source: keras-hub 0.32, `Seq2SeqLM.call_decoder_with_cache`.
    """
    integer("max_length", max_length, 0)
    sources = ops.cast(ops.convert_to_tensor(sources), "int32")
    batch = ops.shape(sources)[0]
    mask = ops.ones_like(sources) if padding is None else ops.cast(sources != padding, "int32")
    first = ops.full((batch, max_length + 1), start, "int32")
    _, encoded, cache, cross_cache = model._build_cache(sources, mask, first)
    context = {"encoded": encoded, "mask": mask, "cross_cache": cross_cache}

    def step(tokens, states, context, ancestry):
        shape = ops.shape(tokens)
        of_rows = {name: ops.repeat(a, shape[1], axis=0) for name, a in context.items()}
        logits, _, cache, _ = model.call_decoder_with_cache(
            of_rows["encoded"],
            of_rows["mask"],
            ops.reshape(tokens, (-1, 1)),
            self_attention_cache=_joined(states)[0],
            self_attention_cache_update_index=step_number(ancestry),
            cross_attention_cache=of_rows["cross_cache"],
            cross_attention_cache_update_index=None,
        )
        return (*_apart(shape, logits[:, 0], [cache]), context)

    start = ops.full((batch,), start, "int32")
    return {"step": step, "states": [cache], "context": context, "start": start}


def _joined(states):
    """(batch, beams, …) → (batch · beams, …)."""
    return [ops.reshape(array, (-1, *ops.shape(array)[2:])) for array in states]


def _apart(shape, logits, states):
    """The reverse, for logits and states."""
    logits = ops.reshape(logits, (*shape, logits.shape[-1]))
    return logits, [ops.reshape(array, (*shape, *ops.shape(array)[1:])) for array in states]
