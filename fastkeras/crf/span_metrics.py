"""Precision, recall and F1 of spans, such as named entities, counted by seqeval."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastkeras.crf.tag_schemes import parse, scheme_of
from fastkeras.training.arguments import integer, integers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    import keras

    from fastkeras.crf.layers.crf import CRF as CRFLayer
    from fastkeras.typing import ArrayLike

ALL = "micro avg"  # seqeval's name for the spans of all types together


class SpanScore(NamedTuple):
    """Scores of the spans of one type, or of all.

    Attributes:
        precision: the share of the spans found that are right, in both ends and type.
        recall: the share of the true spans that were found.
        f1: the harmonic mean of the two. Each is 0 where it is undefined.
        support: the number of true spans.
    """

    precision: float
    recall: float
    f1: float
    support: int


def span_scores(
    true_tags: ArrayLike,
    found_tags: ArrayLike,
    names: Sequence[str],
    scheme: str | None = None,
    mask: ArrayLike | None = None,
) -> dict[str, SpanScore]:
    """Precision, recall and F1 of the spans in tag sequences, by type and for all together.

    Needs seqeval: pip install seqeval.

    Args:
        true_tags: integers, shape (batch, steps), or a list of sequences of different lengths. A
            step with a tag below 0, such as −100, is left out.
        found_tags: integers of the same shape, as `viterbi` or a decoding model returns them.
        names: the names of the tags, as in `constraints.allowed`.
        scheme: a scheme of `constraints.allowed`: only spans that obey it count. None: spans are
            read as by conlleval, the script of CoNLL-2000, which accepts spans that begin wrongly.
        mask: bool, shape (batch, steps): the steps that count. None: all.

    Returns:
        A dict from type to `SpanScore`, with "micro avg" for all spans together. The type of tags
        without one is "_".

    Raises:
        ImportError: seqeval is not installed.
        ValueError: tags, names or shapes do not fit together.

    Example:
        >>> from fastkeras.crf import span_scores
        >>> names = ["O", "B-PER", "I-PER"]
        >>> scores = span_scores([[1, 2, 0, 1]], [[1, 2, 0, 0]], names)  # doctest: +SKIP
        >>> scores["PER"]  # doctest: +SKIP
        SpanScore(precision=1.0, recall=0.5, f1=0.6666666666666666, support=2)

    Source: Tjong Kim Sang & Buchholz, 2000, "Introduction to the CoNLL-2000 shared task: chunking";
        Nakayama, 2018, seqeval.
    """
    try:
        from seqeval import scheme as schemes
        from seqeval.metrics import classification_report
    except ImportError as error:
        raise ImportError(f"span_scores needs seqeval: pip install seqeval ({error})") from error
    standard = _standard_names(names, scheme)
    true, found = _named(true_tags, found_tags, standard, mask)
    if not true:
        return {ALL: SpanScore(0.0, 0.0, 0.0, 0)}
    strict = {}
    if scheme is not None:
        kind = {"IOB1": schemes.IOB1, "BIO": schemes.IOB2, "IOB2": schemes.IOB2}
        strict = {"mode": "strict", "scheme": kind.get(scheme, schemes.IOBES)}
    with warnings.catch_warnings():
        # seqeval's mean over no types at all, which is not used here
        warnings.simplefilter("ignore", RuntimeWarning)
        report = classification_report(true, found, output_dict=True, zero_division=0, **strict)
    return {
        kind: SpanScore(
            float(values["precision"]),
            float(values["recall"]),
            float(values["f1-score"]),
            int(values["support"]),
        )
        for kind, values in report.items()
        if kind not in ("macro avg", "weighted avg")
    }


def span_evaluation(
    crf: CRFLayer,
    inputs: Any,
    true_tags: ArrayLike,
    names: Sequence[str],
    scheme: str | None = None,
    mask: ArrayLike | None = None,
    batch_size: int = 32,
) -> Callable[[keras.Model], dict[str, float]]:
    """Make a function that gives `fastkeras.callbacks.Evaluate` the F1 of spans after each epoch.

    The callback can then keep the weights of the epoch with the best F1, which need not be the one
    with the lowest loss.

    Args:
        crf: the `CRF` layer that the model ends with.
        inputs: the inputs of the model, for `predict`.
        true_tags, names, scheme, mask: as in `span_scores`.
        batch_size: of `predict`.

    Returns:
        A function of the model, which returns a dict: span_precision, span_recall, span_f1, and
        span_f1_TYPE of each type.

    Raises:
        ImportError, ValueError: as `span_scores`, when it is called; `batch_size` is below 1.

    Example:
        >>> from fastkeras.callbacks import Evaluate
        >>> from fastkeras.crf import span_evaluation
        >>> def callback(crf, words, tags, names):
        ...     spans = span_evaluation(crf, words, tags, names, scheme="BIO")
        ...     return Evaluate(spans, monitor="span_f1")

    Source: Tjong Kim Sang & Buchholz, 2000.
    """
    integer("batch_size", batch_size, 1)
    # kept for each model, since a new one would be compiled at each epoch
    decoders: dict[keras.Model, keras.Model] = {}

    def evaluate(model):
        if model not in decoders:
            decoders.clear()
            decoders[model] = crf.decode(model)
        found = decoders[model].predict(inputs, batch_size=batch_size, verbose=0)
        scores = span_scores(true_tags, found, names, scheme, mask)
        overall = scores.pop(ALL)
        by_type = {f"span_f1_{kind}": score.f1 for kind, score in scores.items()}
        return {
            "span_precision": overall.precision,
            "span_recall": overall.recall,
            "span_f1": overall.f1,
            **by_type,
        }

    return evaluate


def _standard_names(names, scheme):
    """The names with the letters of BIO or BIOES, which seqeval reads."""
    parsed = [parse(name, scheme or scheme_of(names)) for name in names]
    return [letter if letter == "O" else f"{letter}-{kind or '_'}" for letter, kind in parsed]


def _named(true_tags, found_tags, names, mask):
    if len(true_tags) != len(found_tags):
        raise ValueError(
            f"found_tags must be as many sequences as true_tags, {len(true_tags)}, "
            f"got {len(found_tags)}"
        )
    masks = [None] * len(true_tags) if mask is None else mask
    names, result = np.array(names, object), ([], [])
    for true, found, valid in zip(true_tags, found_tags, masks, strict=True):
        true, found = integers("true_tags", true), integers("found_tags", found)
        valid = (true >= 0) & (True if valid is None else np.asarray(valid, bool))
        if true.shape != found.shape or true.ndim != 1:
            raise ValueError(
                f"found_tags must have the shape of true_tags, {true.shape} in this sequence, "
                f"got {found.shape}"
            )
        for tags, rows, name in ((true, result[0], "true_tags"), (found, result[1], "found_tags")):
            tags = tags[valid]
            if tags.size and (tags.min() < 0 or tags.max() >= len(names)):
                raise ValueError(
                    f"{name} must be in 0..{len(names) - 1} (there are {len(names)} names), "
                    f"got values in {tags.min()}..{tags.max()}"
                )
            rows.append(names[tags].tolist())
    return result
