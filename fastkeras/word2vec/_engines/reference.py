"""Word2Vec in NumPy, written to be read: one window at a time, in the dtype of the matrices.

docs/word2vec.md derives the gradients. Names: `v` are vectors of words, which are rows of the input
matrix, or with subwords means of some of its rows; `u` are rows of the output matrix, `x` logits,
`errors` the negative gradient of the loss with respect to the logits.
"""

import numpy as np

from fastkeras.word2vec.training import sampling
from fastkeras.word2vec.training.settings import BLOCK, BLOCKS_IN_ROUND, BOTH, CHUNK, TREE

SUBWORDS = DOCUMENTS = BOTH_LOSSES = True  # which not every engine takes


def train(
    ids, begin, end, inputs, outputs, tables, settings, key, schedule,
    num_threads=1, deterministic=False, documents=None,
):  # fmt: skip
    """Predict at positions begin..end-1 of an encoded corpus, and update both matrices in place.

    Args:
        ids: int32 (positions,): words, each sentence ended by −1.
        begin, end: the slice; contexts may lie outside of it.
        inputs, outputs: floats (rows, padded vector size).
        tables, settings, schedule: see training/settings.py.
        key: `sampling.key_of(seed, epoch)`.
        num_threads: not used here.
        deterministic: whether the blocks of a round all start from the same values, and their
            changes are added in order.
        documents: `settings.Documents` or None. Each word has its document as a further input.

    Returns:
        (sum of the losses, number of predictions, number of words that stayed).
    """
    arguments = (tables, settings, key, schedule)
    if documents is not None:  # rows after those of words
        both = np.concatenate([inputs, documents.vectors])
        arguments += (documents.rows + len(inputs),)
        common = (arguments, deterministic)
        result = _train(ids, begin, end, both, outputs, *common)
        inputs[:], documents.vectors[:] = both[: len(inputs)], both[len(inputs) :]
        return result
    return _train(ids, begin, end, inputs, outputs, arguments, deterministic)


def _train(ids, begin, end, inputs, outputs, arguments, deterministic):
    if not deterministic:
        return _train_in_order(ids, begin, end, inputs, outputs, *arguments)
    total = np.zeros(3)
    size = BLOCK * BLOCKS_IN_ROUND
    for at in range(begin // size * size, end, size):
        before = inputs.copy(), outputs.copy()
        for block in range(at, at + size, BLOCK):
            own = before[0].copy(), before[1].copy()
            slice_ = max(begin, block), min(end, block + BLOCK)
            if slice_[0] < slice_[1]:
                total += _train_in_order(ids, *slice_, *own, *arguments)
                inputs += own[0] - before[0]
                outputs += own[1] - before[1]
    return total[0], int(total[1]), int(total[2])


def _train_in_order(
    ids, begin, end, inputs, outputs, tables, settings, key, schedule, documents=None
):
    loss, predictions, words = 0.0, 0, 0
    for at, center, contexts in windows(ids, begin, end, tables, settings, key):
        words += 1
        if documents is not None:
            contexts = with_document(contexts, documents[at], settings)
        if not len(contexts):
            continue
        rate = schedule.learning_rate + schedule.slope * (at // CHUNK * CHUNK)
        rate = inputs.dtype.type(rate)
        sets = draw(at, center, len(contexts), tables, settings, key)
        if settings.objective == "cbow":
            loss += _step_cbow(inputs, outputs, contexts, *sets[0], rate, tables, settings)
            predictions += 1
            continue
        predictions += len(contexts)
        if settings.shared_negatives:
            loss += _step_together(inputs, outputs, contexts, *sets[0], rate, tables, settings)
            continue
        for context, (rows, signs) in zip(contexts, sets, strict=True):
            (v,) = vectors_of(inputs, [context], tables)
            change, row_loss = _step(outputs, v, rows, signs, rate, tables, settings)
            _add(inputs, [context], [change], tables, settings)
            loss += row_loss
    return loss, predictions, words


def windows(ids, begin, end, tables, settings, key):
    """Yield (position, center, contexts) for each word of begin..end-1 that stays."""
    bits = sampling.bits_at(key, np.arange(len(ids)))
    stays = (ids >= 0) & sampling.stays(bits, tables.keep[np.maximum(ids, 0)])
    sentence = np.cumsum(np.asarray(ids) < 0) - (np.asarray(ids) < 0)
    kept = np.flatnonzero(stays)
    for index in np.flatnonzero((kept >= begin) & (kept < end)):
        at = kept[index]
        reach = settings.window
        if settings.shrink_windows:
            reach = int(sampling.window_of(bits[at], reach))
        near = kept[max(index - reach, 0) : index + reach + 1]
        near = near[(near != at) & (sentence[near] == sentence[at])]
        yield at, ids[at], ids[near]


def with_document(contexts, document, settings):
    """Return the inputs that predict a word of a document, which is the last of them."""
    skipgram = settings.objective == "skipgram"
    if settings.documents_alone or (settings.frozen and skipgram):
        return np.array([document])  # frozen words change nothing as single inputs
    return np.append(contexts, document)


def draw(at, center, num_contexts, tables, settings, key):
    """Return (output rows, signs) of a window: one set for all contexts, or a list of one each.

    A logit's loss is log(1 + exp(sign · x)). A draw that is the center itself is left out.
    """
    alone = settings.objective == "skipgram" and not settings.shared_negatives
    nodes, codes = np.zeros(0, np.int32), np.zeros(0, np.float32)
    if settings.loss in (TREE, BOTH):
        path = slice(tables.path_starts[center], tables.path_starts[center + 1])
        nodes, codes = tables.path_nodes[path], tables.path_signs[path]
    if settings.loss == TREE:
        return [(nodes, codes)] * num_contexts
    (bits,) = sampling.bits_at(key, [at])
    sets = []
    for number in range(num_contexts if alone else 1):
        noise = sampling.draw_noise(
            bits, number * settings.negative, settings.negative, tables.noise
        )
        words = np.concatenate([[center], noise[noise != center]]).astype(np.int64)
        signs = np.where(np.arange(len(words)) == 0, -1, 1)
        sets.append((np.append(words, nodes), np.append(signs, codes)))
    return sets


def rows_of(word, tables):
    """Return the input rows whose mean is a word's vector: its own and, if any, its n-grams'."""
    if not len(tables.bag_starts):
        return np.array([word])
    return tables.bag_rows[tables.bag_starts[word] : tables.bag_starts[word + 1]]


def vectors_of(inputs, words, tables):
    """Return the vectors of words, (words, vector size)."""
    return np.stack([inputs[rows_of(word, tables)].mean(axis=0) for word in words])


def _add(inputs, words, changes, tables, settings):
    """Add a vector's change to each row of its word: the row's share of it, or all of it."""
    for word, change in zip(words, changes, strict=True):
        rows = rows_of(word, tables)
        share = len(rows) if settings.exact_subwords else 1
        np.add.at(inputs, rows, change / inputs.dtype.type(share))  # a row may be there twice


def loss_and_errors(x, rows, signs, tables, settings):
    """Return the loss of logits (..., outputs), a float64, and −∂loss/∂x."""
    if settings.loss == "sampled_softmax":
        offsets = tables.logit_offsets[rows].astype(x.dtype)
        offsets[0] = 0
        z = x + offsets
        z = z - z.max(axis=-1, keepdims=True)
        p = np.exp(z)
        p /= p.sum(axis=-1, keepdims=True)
        loss = np.sum(np.log(np.exp(z.astype(np.float64)).sum(axis=-1)) - z[..., 0])
        errors = -p
        errors[..., 0] = p[..., 1:].sum(axis=-1)
        return loss, errors
    y = signs.astype(x.dtype) * x
    e = np.exp(-np.abs(y))
    loss = np.sum(np.maximum(y, 0) + np.log1p(e), dtype=np.float64)
    return loss, -signs.astype(x.dtype) * np.where(y > 0, 1, e) / (1 + e)


def _step(outputs, v, rows, signs, rate, tables, settings):
    """Update the output rows for one input vector; return that vector's change, and the loss."""
    if settings.loss == "sampled_softmax":
        u = outputs[rows]
        loss, errors = loss_and_errors(u @ v, rows, signs, tables, settings)
        if not settings.frozen:
            np.add.at(outputs, rows, rate * errors[:, None] * v)
        return rate * errors @ u, loss
    change, loss = np.zeros_like(v), 0.0
    for row, sign in zip(rows, signs, strict=True):  # one by one: a row may be drawn twice
        u = outputs[row].copy()
        one_loss, error = loss_and_errors(u @ v, row, sign, tables, settings)
        change += rate * error * u
        if not settings.frozen:
            outputs[row] += rate * error * v
        loss += one_loss
    return change, loss


def _step_cbow(inputs, outputs, contexts, rows, signs, rate, tables, settings):
    h = vectors_of(inputs, contexts, tables).mean(axis=0)
    change, loss = _step(outputs, h, rows, signs, rate, tables, settings)
    if settings.exact_cbow:
        change = change / inputs.dtype.type(len(contexts))
    changed = contexts[-1:] if settings.frozen else contexts
    _add(inputs, changed, [change] * len(changed), tables, settings)
    return loss


def _step_together(inputs, outputs, contexts, rows, signs, rate, tables, settings):
    """Update all contexts and one set of outputs; compute all gradients before any change."""
    v, u = vectors_of(inputs, contexts, tables), outputs[rows]
    loss, errors = loss_and_errors(v @ u.T, rows, signs, tables, settings)
    _add(inputs, contexts, rate * errors @ u, tables, settings)
    if not settings.frozen:
        np.add.at(outputs, rows, rate * errors.T @ v)
    return loss
