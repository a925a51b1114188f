"""Where values come from: placeholder() and constant()."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from .build import make
from .operation import check_name
from .tensor import Operand, Tensor, as_array

__all__ = ["Fed", "constant", "placeholder"]


class Fed:
    """The payload of a Placeholder: what may be fed to it.

    Attributes:
        dtype: the dtype that what is fed is cast to.
        shape: its dimensions, None for one of any length; None if it may have any shape.
    """

    __slots__ = ("dtype", "shape")

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int | None, ...] | None) -> None:
        self.dtype = dtype
        self.shape = shape


def placeholder(
    dtype: Any, shape: Iterable[int | None] | int | None = None, name: str = "placeholder"
) -> Tensor:
    """Return a Tensor whose value is fed in each step: ``session.run(..., {x: value})``.

    Args:
        dtype: what is fed is cast to it, where NumPy's ``same_kind`` casting allows; of strings
            without a width, such as ``np.str_``, any width may be fed.
        shape: the lengths of its dimensions, None for one of any length; None allows any shape.
        name: what errors call it.

    Raises:
        TypeError: a dtype or shape that no tensor can have.
    """
    kind = np.dtype(dtype)
    if kind.hasobject and kind.kind != "T":
        raise TypeError(
            f"a placeholder cannot have dtype {kind}: objects do not travel; use function()"
        )
    dims: tuple[int | None, ...] | None = None
    if shape is not None:
        try:
            given = shape if isinstance(shape, Iterable) else (shape,)
            dims = tuple(None if n is None else operator.index(n) for n in given)
        except TypeError:
            raise TypeError(
                f"a placeholder's shape is a tuple of lengths (None for any), not {shape!r}"
            ) from None
        if any(n is not None and n < 0 for n in dims):
            raise ValueError(f"no tensor has shape {shape!r}: use None for a length that may vary")
    name = check_name(name, "a placeholder")
    return Tensor(make("Placeholder", name, payload=Fed(kind, dims)))


def constant(value: Any, dtype: Any = None, shape: Any = None, name: str = "Const") -> Tensor:
    """Return a Tensor that always has the value that ``value`` has now.

    Args:
        value: what :func:`numpy.array` takes.
        dtype: its dtype; None is what NumPy makes of it.
        shape: its shape; a single element is repeated to fill it.
        name: what it is called.

    Raises:
        TypeError: it is a Tensor already, or has no dtype but object.
    """
    if isinstance(value, Operand):
        raise TypeError(f"{value!r} is no constant: use it as it is")
    array = as_array(value, dtype)
    if shape is not None:
        array = np.full(shape, array) if array.ndim == 0 else array.reshape(shape)
    return Tensor(make("Const", check_name(name, "a constant"), payload=array))
