"""The types of the CRF: the chain that every engine takes, its gradients, and low-rank scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastkeras._arrays import array_functions, dtype_of, family_of, has_values

if TYPE_CHECKING:
    from fastkeras.typing import Tensor


class Chain(NamedTuple):
    """A batch of chains, checked by arguments.py; the engines rely on that.

    Scores are of one dtype, float32 or float64, and never None. NumPy arrays are C-contiguous.
    """

    emissions: Any  # (batch, steps, num_tags)
    transitions: Any  # (num_tags, num_tags), or into each step (batch, steps - 1, ·, ·)
    lengths: Any  # int32 (batch,)
    mask: Any  # bool (batch, steps), or None; a mask alone decides which steps are valid
    start_transitions: Any  # (num_tags,)
    end_transitions: Any  # (num_tags,)

    @property
    def family(self):
        """The family of its arrays: "numpy", "tensorflow" and so on."""
        return family_of(self.emissions)

    @property
    def varies(self):
        """Whether each step has transitions of its own."""
        return len(self.transitions.shape) == 4

    @property
    def scores(self):
        """The arrays to differentiate by, in the order of `Gradients`."""
        return self.emissions, self.transitions, self.start_transitions, self.end_transitions

    def with_scores(self, function):
        """The chain with `function` applied to each of its scores."""
        emissions, transitions, start, end = map(function, self.scores)
        return Chain(emissions, transitions, self.lengths, self.mask, start, end)

    def valid_steps(self):
        """Bool, (batch, steps): the steps that take part."""
        if self.mask is not None:
            return self.mask
        array = array_functions(self.emissions)
        steps = array.arange(array.shape(self.emissions)[1], dtype="int32")
        return steps < self.lengths[:, None]


class Gradients(NamedTuple):
    """Gradients of the weighted sum of the log-likelihoods.

    Attributes:
        emissions: shape (batch, steps, num_tags).
        transitions: of the shape that was given, usually (num_tags, num_tags).
        start_transitions, end_transitions: shape (num_tags,).
    """

    emissions: Any
    transitions: Any
    start_transitions: Any
    end_transitions: Any


class LowRank(NamedTuple):
    """Transitions left @ right.T: 2 · rank · num_tags parameters in place of num_tags².

    Every function of `fastkeras.crf` takes one in place of its transitions, and forms the product
    in time num_tags² · rank, except `memm.log_likelihood`. Gradients reach both factors.

    Args:
        left: float, shape (num_tags, rank): factor of the tag before.
        right: float, shape (num_tags, rank): factor of the tag after.

    Example:
        >>> import numpy as np
        >>> from fastkeras import crf
        >>> transitions = crf.LowRank(np.array([[1.0], [0.0]]), np.array([[2.0], [0.0]]))
        >>> transitions.product()
        array([[2., 0.],
               [0., 0.]])
        >>> crf.viterbi(np.zeros((1, 3, 2)), transitions)
        (array([[0, 0, 0]], dtype=int32), array([4.]))

    Source: Su, 2020, "A brief introduction to MEMM", https://kexue.fm/archives/7213.
    """

    left: Any
    right: Any

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the product."""
        return (self.left.shape[0], self.right.shape[0])

    def product(self) -> Tensor:
        """The transitions, (num_tags, num_tags)."""
        array = array_functions(self.left)
        return array.matmul(self.left, array.transpose(self.right))

    def gradients(self, d_product: Tensor) -> LowRank:
        """Gradients by the factors, a `LowRank`, from the gradient by the product."""
        array, dtype = array_functions(d_product), dtype_of(d_product)
        left, right = (array.cast(array.convert_to_tensor(factor), dtype) for factor in self)
        return LowRank(
            array.matmul(d_product, right), array.matmul(array.transpose(d_product), left)
        )


def check_lengths(lengths, steps):
    """Raise ValueError for NumPy lengths that are out of range."""
    if lengths.size and (lengths.min() < 0 or lengths.max() > steps):
        raise ValueError(
            f"lengths must be in 0..{steps} (the steps of emissions), "
            f"got values in {lengths.min()}..{lengths.max()}"
        )


def check_tags(tags, valid, num_tags):
    """Raise ValueError for NumPy tags that are out of range at a valid step."""
    wrong = valid & ((tags < 0) | (tags >= num_tags))
    if wrong.any():
        b, t = np.argwhere(wrong)[0]
        raise ValueError(
            f"tags must be in 0..{num_tags - 1} at valid steps, got {tags[b, t]} at [{b}, {t}]"
        )


def check_values(chain, tags=None):
    """Check lengths and tags as for NumPy arrays, if they have values.

    In a graph, which cannot raise, wrong tags or lengths make results NaN instead.
    """
    array = array_functions(chain.emissions)
    _, steps, num_tags = chain.emissions.shape
    if has_values(chain.lengths) and steps is not None:
        check_lengths(array.convert_to_numpy(chain.lengths), steps)
    if tags is None or not has_values(tags):
        return
    tags = array.convert_to_numpy(tags)
    of_steps = chain.lengths if chain.mask is None else chain.mask
    if has_values(of_steps):  # in NumPy, since a graph being traced would make it symbolic
        valid = array.convert_to_numpy(of_steps)
        if chain.mask is None:
            valid = np.arange(tags.shape[1]) < valid[:, None]
        check_tags(tags, valid, num_tags)
