"""Transitions as a product of two factors."""

from typing import Any, NamedTuple

from fastkeras._engines import array_functions


class LowRank(NamedTuple):
    """Transitions left @ right.T: 2 · rank · num_tags parameters in place of num_tags².

    Every function of `fastkeras.crf` takes one in place of its transitions, at the cost of the
    product, num_tags² · rank; `memm.log_likelihood` never forms it. Gradients reach both factors.

    Args:
        left: float, shape (num_tags, rank): of the tag before.
        right: float, shape (num_tags, rank): of the tag after.

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
    def shape(self):
        """That of the product."""
        return (self.left.shape[0], self.right.shape[0])

    def product(self):
        """The transitions, (num_tags, num_tags)."""
        array = array_functions(self.left)
        return array.matmul(self.left, array.transpose(self.right))

    def gradients(self, d_product):
        """Gradients by the factors, a `LowRank`, from the gradient by the product."""
        array = array_functions(d_product)
        return LowRank(
            array.matmul(d_product, self.right), array.matmul(array.transpose(d_product), self.left)
        )
