"""Sequence-to-sequence decoding: the search for the best sequences that a model can write.

Every function takes NumPy arrays, or tensors of TensorFlow, JAX or torch, and answers in kind. The
algorithms and their formulas are in docs/seq2seq.md.
"""

from fastkeras.seq2seq.beam_search import BeamSearch, Hypotheses
from fastkeras.seq2seq.candidates import select
from fastkeras.seq2seq.padding import sequence_padding
from fastkeras.seq2seq.sampling import sample

__all__ = ["BeamSearch", "Hypotheses", "sample", "select", "sequence_padding"]
