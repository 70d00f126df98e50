# For type checkers and editors: what __init__.py loads on first use.
from fastkeras.tagging.encoders.relative_positions import (
    relative_position_buckets as relative_position_buckets,
)
from fastkeras.tagging.encoders.rotary import rotary_positions as rotary_positions
from fastkeras.tagging.global_pointer import EfficientGlobalPointer as EfficientGlobalPointer
from fastkeras.tagging.global_pointer import GlobalPointer as GlobalPointer
from fastkeras.tagging.multilabel import (
    MultilabelCategoricalCrossentropy as MultilabelCategoricalCrossentropy,
)
from fastkeras.tagging.multilabel import (
    multilabel_categorical_crossentropy as multilabel_categorical_crossentropy,
)
from fastkeras.tagging.multilabel import (
    sparse_multilabel_categorical_crossentropy as sparse_multilabel_categorical_crossentropy,
)
from fastkeras.tagging.span_loss import SpanCrossentropy as SpanCrossentropy
from fastkeras.tagging.span_score import NestedSpanScore as NestedSpanScore
from fastkeras.tagging.spans import Span as Span
from fastkeras.tagging.spans import decode_spans as decode_spans
from fastkeras.tagging.spans import span_labels as span_labels
from fastkeras.tagging.subwords import WordPooling as WordPooling
from fastkeras.tagging.subwords import first_subwords as first_subwords
from fastkeras.tagging.subwords import subword_labels as subword_labels
from fastkeras.tagging.subwords import word_numbers as word_numbers
from fastkeras.tagging.windows import DocumentWindows as DocumentWindows
from fastkeras.tagging.windows import document_windows as document_windows
