"""Values from the wire, where anything may have come in their place.

No memory is taken because a message says that there will be much, only as much comes. What is
wrong with a message is told by DataLossError, whoever is to blame.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataLossError
from .dtypes import dtype_from_text
from .frames import Chunk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .._proto.graph_pb2 import TensorProto, Value, ValueChunk

__all__ = ["value_from_chunks", "value_from_proto"]

_AHEAD = 1 << 26  # bytes that are allocated because they were announced, before they come
_MOST_DIMENSIONS = 64  # NumPy's own limit
_WIDTHLESS = 1 << 20  # elements of an array whose elements have no bytes: nothing else limits them


def value_from_proto(proto: Value, *, writable: bool = False) -> Any:
    """Return the value of a message that holds all of it.

    Args:
        proto: the message.
        writable: whether arrays are copies of their own; otherwise they are read-only and share
            the message's memory.

    Raises:
        DataLossError: the message is damaged, or the value is elsewhere (``stored``).
    """
    value = _decode(proto, None)
    return _copied(value) if writable else value


def value_from_chunks(chunks: Iterable[ValueChunk | Chunk]) -> Any:
    """Return the value that :func:`chunks_of` sent; its arrays are new and writable.

    Raises:
        DataLossError: bytes are missing, or too many.
    """
    stream = iter(chunks)
    first = next(stream, None)
    if first is None:
        raise DataLossError("a stream that should bring a value ended before its first message")
    if isinstance(first, Chunk):
        raise DataLossError("a stream should begin with what it brings, and begins with bytes")
    value = _decode(first.value, stream)
    if next(stream, None) is not None:
        raise DataLossError("a stream brought more bytes than its first message said")
    return value


def _decode(proto: Value, stream: Iterator[ValueChunk | Chunk] | None) -> Any:
    kind = proto.WhichOneof("kind")
    if kind == "none":
        return None
    if kind == "list":
        items = [_decode(item, stream) for item in proto.list.value]
        return items if proto.list.mutable else tuple(items)
    if kind != "tensor":
        raise DataLossError(f"a message should bring a value and brings {kind or 'nothing'}")
    tensor = proto.tensor
    dtype, shape = dtype_from_text(tensor.dtype), tuple(tensor.shape)
    try:
        return _array(tensor, dtype, shape, stream)
    except (ValueError, OverflowError) as error:
        raise DataLossError(
            f"a tensor of dtype {dtype} and shape {_shown(shape)} came damaged: {error}"
        ) from error


def _array(
    tensor: TensorProto,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    stream: Iterator[ValueChunk | Chunk] | None,
) -> np.ndarray[Any, Any]:
    """Return the array of a message: its memory is what came, whatever the shape claims."""
    if len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"it can have {_MOST_DIMENSIONS} dimensions at most")
    if shape and min(shape) < 0:
        raise ValueError("it has less than nothing in a dimension")  # -1 is NumPy's "whatever fits"
    count, announced = math.prod(shape), tensor.streamed_bytes
    if dtype.kind == "T":
        content = b"".join(_chunks(stream, announced)) if announced else tensor.content
        return _strings(content, count, dtype).reshape(shape)
    size = count * dtype.itemsize
    if announced and announced != size:
        raise DataLossError(
            f"a tensor of dtype {dtype} and shape {_shown(shape)} takes {size} bytes, "
            f"and {announced} were announced"
        )
    if not announced and len(tensor.content) != size:
        raise ValueError(f"it takes {size} bytes, and {len(tensor.content)} came")
    if not dtype.itemsize:
        if count > _WIDTHLESS:
            raise ValueError(f"elements without a width can be {_WIDTHLESS} at most")
        return np.empty(shape, dtype)
    if announced:
        array = _streamed(dtype, shape, count, announced, stream)
    else:
        array = np.frombuffer(tensor.content, dtype).reshape(shape)
        array = array if stream is None else array.copy()
    if dtype.kind == "U" or dtype.names is not None:
        _check_text(array)
    return array


def _streamed(
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    count: int,
    size: int,
    stream: Iterator[ValueChunk | Chunk] | None,
) -> np.ndarray[Any, Any]:
    """Read an array from a stream into its place.

    A large one grows with what comes, which costs little (its pages are moved, not copied), so
    that nobody can have memory allocated by only saying that there will be much.
    """
    array = np.empty(min(count, max(1, _AHEAD // dtype.itemsize)), dtype)
    target, filled = array.view(np.uint8).data, 0
    for chunk in _chunks(stream, size):
        end = filled + len(chunk)
        if end > len(target):
            del target  # it would point to where the array was
            wanted = -(-end // dtype.itemsize)
            array.resize(min(count, max(2 * len(array), wanted)), refcheck=False)
            target = array.view(np.uint8).data
        target[filled:end] = chunk
        filled = end
    del target
    array.resize(shape, refcheck=False)
    return array


def _chunks(stream: Iterator[ValueChunk | Chunk] | None, size: int) -> Iterator[bytes | memoryview]:
    """Yield what the stream brings until that is ``size`` bytes."""
    filled = 0
    while filled < size:
        message = None if stream is None else next(stream, None)
        if message is None or not message.chunk:
            raise DataLossError(f"a stream ended after {filled} of {size} bytes of a tensor")
        filled += len(message.chunk)
        if filled > size:
            raise ValueError(f"{filled} bytes came, and {size} were announced")
        yield message.chunk


def _strings(content: bytes, count: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Read strings of variable width back; see TensorProto.content."""
    if 8 * count > len(content):
        raise ValueError(f"{count} strings take more than {len(content)} bytes")
    position, texts = 8 * count, []
    for length in np.frombuffer(content, "<i8", count).tolist():
        if length < 0:
            if not hasattr(dtype, "na_object"):
                raise ValueError("a string is missing, and none can be")
            texts.append(dtype.na_object)
        else:
            texts.append(content[position : position + length].decode("utf-8", "surrogatepass"))
            position += length
    if position != len(content):
        raise ValueError(f"{count} strings should take {position} bytes, not {len(content)}")
    return np.array(texts, dtype=dtype)


def _check_text(array: np.ndarray[Any, Any]) -> None:
    """Refuse what is no character: it would fail wherever an element is looked at."""
    if array.dtype.names is not None:
        for name in array.dtype.names:
            _check_text(array[name])
    elif array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).view(array.dtype.byteorder.replace("|", "=") + "u4")
        if codes.max() > sys.maxunicode:
            raise ValueError("it holds what is no character")


def _shown(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) < 100 else f"of {len(shape)} dimensions"


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, (tuple, list)):
        return type(value)(map(_copied, value))
    return value
