"""The types in the signatures of fastkeras, for annotations of your own.

Most functions take arrays of any framework and return the same kind. What they take is `ArrayLike`,
so type checkers refuse a string, a number or None in place of an array. What they return is
`Tensor`, which type checkers take for whatever you use it as: Keras and TensorFlow publish no
types, and only the array that you pass decides what comes back. What is always an array of NumPy is
annotated as one, with its dtype.
"""

from collections.abc import Callable
from os import PathLike
from typing import Any, Protocol, TypeAlias


class Array(Protocol):
    """An array of NumPy or CuPy, a tensor of TensorFlow, JAX, torch or Keras, or a variable."""

    @property
    def shape(self) -> Any:
        """Its shape."""

    @property
    def dtype(self) -> Any:
        """Its dtype."""


ArrayLike: TypeAlias = Array | list[Any] | tuple[Any, ...]
"""What functions take: an array, or nested lists, which become an array of NumPy."""

Tensor: TypeAlias = Any
"""What functions return: an array of the family and dtype of the argument that decides it."""

Identifier: TypeAlias = str | dict[str, Any] | Callable[..., Any]
"""An initializer, regularizer or constraint of Keras: a name, a configuration, an object."""

FilePath: TypeAlias = str | PathLike[str]
"""Where a file is: a string, or a `pathlib.Path`."""
