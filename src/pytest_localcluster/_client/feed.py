"""What may be fed to a Tensor: checked here, so that the mistake shows where it was made."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidArgumentError
from .source import Fed
from .tensor import Operand, Tensor

__all__ = ["as_feed", "check_key"]

_NO_FEED = "feeds are arrays, or what numpy.asarray makes an array of, but of no objects"


def check_key(key: Any, what: str) -> Tensor:
    """Return a key of a feed_dict if it is a Tensor; TypeError otherwise."""
    if isinstance(key, Tensor):
        return key
    remedy = ""
    if isinstance(key, Operand):
        remedy = ": change it with its assign(value), or feed the Tensor that its read() gave"
    raise TypeError(f"{what} names Tensors, such as placeholders, and {key!r} is none{remedy}")


def as_feed(tensor: Tensor, value: Any) -> np.ndarray[Any, Any]:
    """Return the array that ``value`` feeds to ``tensor``.

    Raises:
        InvalidArgumentError: it has a dtype or shape that a placeholder does not take.
        TypeError: it is a Tensor itself.
    """
    if isinstance(value, Operand):
        raise TypeError(
            f"{value!r} cannot be fed to {tensor!r}: run it first and feed what that returns, or "
            "make the operation of it in place of the placeholder"
        )
    if value is None:
        raise _wrong(tensor, "was fed None: leave it out of the feed_dict, or feed an array")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise _wrong(tensor, f"cannot be fed {_short(value)}: {error}") from error
    if array.dtype.hasobject and array.dtype.kind != "T":
        raise _wrong(tensor, f"was fed {_short(value)}: {_NO_FEED}")
    fed = tensor.op.payload
    if isinstance(fed, Fed):
        array = _cast(tensor, array, value, fed.dtype)
        if fed.shape is not None and not _fits(array.shape, fed.shape):
            raise _wrong(tensor, f"has shape {_shape(fed.shape)} and was fed {_shape(array.shape)}")
    return array


def _cast(
    tensor: Tensor, array: np.ndarray[Any, Any], value: object, wanted: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    have = array.dtype
    if have == wanted:
        return array
    if have.kind == wanted.kind and _is_open(wanted):
        return array
    literal = not isinstance(value, (np.ndarray, np.generic))
    if array.size == 0 and literal:  # an empty list has no dtype, whatever NumPy says
        return array.astype(wanted)
    whole = have.kind in "iu" and wanted.kind in "iu"
    if np.can_cast(have, wanted, "same_kind") or (whole and literal):
        try:
            with np.errstate(all="ignore"):
                cast = array.astype(wanted)
        except (TypeError, ValueError) as error:
            raise _wrong(tensor, f"has dtype {wanted} and was fed {have}: {error}") from error
        if not whole or bool((cast == array).all()):
            return cast
        raise _wrong(tensor, f"has dtype {wanted}, which does not hold {_short(value)}")
    raise _wrong(
        tensor,
        f"has dtype {wanted} and was fed {have}, which NumPy does not cast to it by 'same_kind': "
        "cast it yourself with astype if you mean it",
    )


def _is_open(dtype: np.dtype[Any]) -> bool:
    """Tell whether a dtype leaves something to the value: a string's width, a date's unit."""
    return dtype.itemsize == 0 or (dtype.kind in "mM" and np.datetime_data(dtype)[0] == "generic")


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        n is None or m == n for m, n in zip(shape, wanted, strict=True)
    )


def _shape(shape: tuple[int | None, ...]) -> str:
    return str(tuple(shape))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _wrong(tensor: Tensor, text: str) -> InvalidArgumentError:
    kind = "placeholder" if tensor.op.type == "Placeholder" else "tensor"
    return InvalidArgumentError(f"{kind} {tensor.op.name} {text}", op=tensor.op.name)
