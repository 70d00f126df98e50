"""The check of the arguments of second-order chains."""

import numpy as np

from fastkeras._arrays import array_functions, contiguous, dtype_of
from fastkeras.crf.arguments import chain_of
from fastkeras.crf.constraints import checked


def chain_and_triples(emissions, transitions, triples, lengths, constraints, mask, ends):
    """A chain to which the constraints apply, the triples, and which transitions are allowed."""
    chain = chain_of(emissions, transitions, lengths, mask, *ends, may_vary=False)
    num_tags = chain.emissions.shape[2]
    allowed = np.ones((num_tags, num_tags), bool)
    if constraints is not None:
        constraints = checked(constraints, num_tags)
        allowed = constraints.transitions
        of_ends = chain.start_transitions, chain.end_transitions
        chain = chain._replace(**constraints.apply(chain.transitions, *of_ends))
    array = array_functions(chain.emissions)
    triples = array.convert_to_tensor(triples)
    shape = tuple(triples.shape)
    if shape != (num_tags,) * 3:
        raise ValueError(
            f"triples must have shape (num_tags, num_tags, num_tags) = {(num_tags,) * 3}, "
            f"got {shape}"
        )
    if not dtype_of(triples).startswith(("float", "bfloat", "int", "uint")):
        raise ValueError(f"triples must be numbers, got {dtype_of(triples)}")
    triples = contiguous(array.cast(triples, chain.emissions.dtype))
    return chain, triples, allowed
