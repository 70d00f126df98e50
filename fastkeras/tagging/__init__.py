"""What a tagger needs beside the chain: nested spans, subwords, long documents.

All in plain `keras.ops`, for every backend. docs/tagging.md has the mathematics and the sources.
"""

from importlib import import_module

_WHERE = {
    **dict.fromkeys(("EfficientGlobalPointer", "GlobalPointer"), "global_pointer"),
    **dict.fromkeys(
        (
            "MultilabelCategoricalCrossentropy",
            "multilabel_categorical_crossentropy",
            "sparse_multilabel_categorical_crossentropy",
        ),
        "multilabel",
    ),
    **dict.fromkeys(("Span", "decode_spans", "span_labels"), "spans"),
    **dict.fromkeys(
        ("WordPooling", "first_subwords", "subword_labels", "word_numbers"), "subwords"
    ),
    **dict.fromkeys(("DocumentWindows", "document_windows"), "windows"),
    "NestedSpanScore": "span_score",
    "SpanCrossentropy": "span_loss",
    "relative_position_buckets": "encoders.relative_positions",
    "rotary_positions": "encoders.rotary",
}

__all__ = sorted(_WHERE)


def __getattr__(name):
    if name not in _WHERE:
        raise AttributeError(f"module 'fastkeras.tagging' has no attribute {name!r}")
    return getattr(import_module(f"fastkeras.tagging.{_WHERE[name]}"), name)


def __dir__():
    return __all__
