"""The losses of the Keras layers as text, in float64, and gradients by differences of 4th order."""

import numpy as np


def mean_loss(weights, hidden_ids, targets, drawn, loss, combiner="sum", offsets=None, extra=None):
    """Return the mean loss of a batch: one example and one candidate at a time.

    Args:
        weights: dict of float64 `embeddings`, and perhaps `output_embeddings`, `bias_embeddings`.
        hidden_ids: for each example the words whose vectors make the hidden one.
        targets: the word to be told.
        drawn: (batch, negative), or (negative,) for all.
        offsets: for each word what is added to its logit if drawn.
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
    """Return ∂fn()/∂array, weight by weight; `fn` reads the array."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        center = array[index]
        for factor, multiple in ((-1, 2), (8, 1), (-8, -1), (1, -2)):
            array[index] = center + multiple * step
            gradient[index] += factor * fn() / (12 * step)
        array[index] = center
    return gradient
