"""Sequence-to-sequence decoding: searching for the best sequences that a model can generate.

Every function takes NumPy arrays, or tensors of TensorFlow, JAX or torch, and returns the same
kind. The algorithms and their formulas are in docs/seq2seq.md.
"""

from fastkeras.seq2seq.beam_search import BeamSearch
from fastkeras.seq2seq.candidates import select
from fastkeras.seq2seq.hypotheses import Hypotheses
from fastkeras.seq2seq.padding import sequence_padding
from fastkeras.seq2seq.sampling import sample
from fastkeras.seq2seq.states import step_number
from fastkeras.seq2seq.vocabulary import CharacterVocabulary

__all__ = [
    "BeamSearch",
    "CharacterVocabulary",
    "Hypotheses",
    "sample",
    "select",
    "sequence_padding",
    "step_number",
]
