"""The losses of the Keras layers in plain float64, and gradients by differences of 4th order."""

import numpy as np


def mean_loss(weights, hidden_ids, targets, drawn, loss, combiner="sum", offsets=None, extra=None):
    """Return the mean loss of a batch, computed one example and one candidate at a time.

    Args:
        weights: dict of float64 `embeddings`, and perhaps `output_embeddings`, `bias_embeddings`.
        hidden_ids: for each example the words whose vectors are combined to the hidden vector.
        targets: the words to be predicted.
        drawn: (batch, negative), or (negative,) for all.
        offsets: for each word, added to its logit if it is drawn.
        extra: added to the hidden vectors.
    """
    outputs = weights.get("output_embeddings", weights["embeddings"])
    losses = []
    for i, target in enumerate(targets):
        h = sum(weights["embeddings"][word] for word in hidden_ids[i])
        if combiner == "mean":
            h = h / len(hidden_ids[i])
        if extra is not None:
            h = h + extra[i]
        words = [word for word in (drawn[i] if np.ndim(drawn) == 2 else drawn) if word != target]
        x = np.array([outputs[word] @ h for word in (target, *words)])
        if "bias_embeddings" in weights:
            x += weights["bias_embeddings"][[target, *words]]
        if offsets is not None:
            x[1:] += offsets[words]
        if loss == "sampled_softmax":
            losses.append(np.log(np.sum(np.exp(x))) - x[0])
        else:
            losses.append(np.log1p(np.exp(-x[0])) + np.sum(np.log1p(np.exp(x[1:]))))
    return np.mean(losses)


def gradient_by_differences(fn, array, step=1e-3):
    """Return ∂fn()/∂array, element by element; `fn` reads the array."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        center = array[index]
        for factor, multiple in ((-1, 2), (8, 1), (-8, -1), (1, -2)):
            array[index] = center + multiple * step
            gradient[index] += factor * fn() / (12 * step)
        array[index] = center
    return gradient


def loss_and_gradients(loss, hidden, outputs, bias, targets, drawn, correction, upstream):
    """Return losses, hits, and the gradients of Σ upstream · losses, one example at a time.

    Args:
        hidden, outputs, bias: arrays (batch, size), (words, size), (words,), of one dtype, in which
            everything is computed.
        targets, drawn: integers (batch,), (batch, negative).
        correction: (words,), added to the logits of words drawn.
        upstream: (batch,).

    Returns:
        Losses (batch,), hits (batch,), and gradients of the shapes of hidden, outputs and bias.
    """
    losses, hits = np.zeros_like(hidden[:, 0]), np.zeros_like(hidden[:, 0])
    gradients = [np.zeros_like(array) for array in (hidden, outputs, bias)]
    for i, target in enumerate(targets):
        words = np.concatenate([[target], drawn[i][drawn[i] != target]])
        logits = outputs[words] @ hidden[i] + bias[words]
        hits[i] = np.all(logits[0] > logits[1:])
        x = logits.copy()
        x[1:] += correction[words[1:]]
        if loss == "sampled_softmax":
            e = np.exp(x - x.max())
            losses[i] = np.log(e.sum()) - (x[0] - x.max())
            errors = e / e.sum()
            errors[0] = -errors[1:].sum()
        else:
            x[0] = -x[0]
            e = np.exp(-np.abs(x))
            losses[i] = np.sum(np.maximum(x, 0) + np.log1p(e))
            errors = np.where(x > 0, 1, e).astype(x.dtype) / (1 + e)
            errors[0] = -errors[0]
        errors *= upstream[i]
        for error, word in zip(errors, words, strict=True):  # in this order, as a kernel may
            gradients[0][i] += error * outputs[word]
        np.add.at(gradients[1], words, errors[:, None] * hidden[i])
        np.add.at(gradients[2], words, errors)
    return losses, hits, *gradients
