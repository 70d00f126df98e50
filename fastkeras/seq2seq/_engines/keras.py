"""Composed of keras.ops: for any device and backend, differentiable, exports without custom ops."""

from keras import ops

INFINITY = float("inf")


def select(step, num_candidates):
    logits, scores = ops.convert_to_tensor(step.logits), ops.convert_to_tensor(step.scores)
    _, beams, vocabulary = logits.shape
    log_p, is_sound = _log_softmax(logits)
    is_one = scores != -INFINITY
    is_sound = ops.all((is_sound & (scores < INFINITY)) | ~is_one, axis=1, keepdims=True)
    if step.history is not None:
        history = _tokens_so_far(ops.convert_to_tensor(step.history))
        if step.repetition_penalty != 1:
            penalised = log_p * step.repetition_penalty
            log_p = ops.where(_among(history, vocabulary), penalised, log_p)
        if step.no_repeat_ngram > 0:
            repeated = _would_repeat(history, step.no_repeat_ngram)
            log_p = ops.where(_among(repeated, vocabulary), -INFINITY, log_p)
    if step.allowed is not None:
        log_p = ops.where(ops.convert_to_tensor(step.allowed), log_p, -INFINITY)
    totals = ops.where(is_one, scores, 0)[..., None] + log_p
    totals = ops.where(is_one[..., None] & is_sound[..., None], totals, -INFINITY)
    totals = ops.reshape(totals, (-1, beams * vocabulary))
    best, index = ops.top_k(totals, min(num_candidates, beams * vocabulary))
    index = ops.cast(ops.where(best > -INFINITY, index, 0), "int32")
    best = ops.where(is_sound, best, float("nan"))
    missing = [[0, 0], [0, num_candidates - best.shape[1]]]
    if missing[1][1]:
        # a sentence without an order is NaN everywhere
        ends = ops.where(is_sound, ops.full_like(best[:, :1], -INFINITY), float("nan"))
        best = ops.concatenate([best, ops.repeat(ends, missing[1][1], axis=1)], axis=1)
        index = ops.pad(index, missing)
    return best, index % vocabulary, index // vocabulary


def _log_softmax(logits):
    """Log-softmax, −inf where all logits are; and (batch, beams), whether none is NaN or +inf."""
    # without `initial` Keras refuses an empty batch
    peak = ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True, initial=-INFINITY))
    shifted = logits - ops.where(ops.isfinite(peak), peak, 0)
    total = ops.sum(ops.exp(shifted), axis=-1, keepdims=True)
    is_sound = total < INFINITY
    log_p = shifted - ops.log(ops.where(is_sound & (total > 0), total, 1))
    return log_p, is_sound[..., 0]


def _tokens_so_far(history):
    """The history with −1 from the first negative number on."""
    ended = ops.cumsum(ops.cast(history < 0, "int32"), axis=-1)
    return ops.where(ended > 0, -1, history)


def _would_repeat(history, n):
    """The tokens that would complete an n-gram already in the history, or −1."""
    firsts = history.shape[2] - (n - 1)
    if firsts < 1:
        return history[..., :0]
    lengths = ops.sum(ops.cast(history >= 0, "int32"), axis=-1, keepdims=True)
    same = lengths >= n - 1
    for i in range(n - 1):
        place = ops.maximum(lengths - (n - 1) + i, 0)
        last = ops.take_along_axis(history, place, axis=-1)
        same = same & (history[..., i : i + firsts] == last)
    return ops.where(same, history[..., n - 1 :], -1)


def _among(tokens, vocabulary):
    """Whether each word of the vocabulary is one of the tokens, (batch, beams, vocabulary)."""
    _, beams, steps = tokens.shape
    if steps == 0:
        return ops.zeros((1, 1, 1), "bool")
    tokens = ops.reshape(tokens, (-1, steps))
    rows = ops.shape(tokens)[0]
    place = ops.arange(rows, dtype="int32")[:, None] * (vocabulary + 1) + tokens + 1  # 0: no token
    place = ops.reshape(place, (-1, 1))
    counts = ops.scatter(place, ops.ones_like(place[:, 0]), (rows * (vocabulary + 1),))
    return ops.reshape(counts, (-1, beams, vocabulary + 1))[..., 1:] > 0
