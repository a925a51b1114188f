"""Values on the wire: NumPy arrays, None, and tuples or lists of those, whole or in chunks.

Every dtype travels but object: strings of fixed and variable width, dates, complex and structured
ones, in any byte order. A value that is larger than :data:`INLINE_LIMIT` should go as a stream of
chunks, which the receiver reads straight into the array that it returns: there is no limit to the
size of a tensor, while a protobuf message ends at 2 GiB.

What is sent is written here; decoding reads it, and trusts nothing; dtypes are the dtypes' names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._proto.graph_pb2 import TensorProto, Value, ValueChunk, ValueList
from .decoding import value_from_chunks, value_from_proto
from .dtypes import dtype_from_text, dtype_to_text
from .frames import chunk_frame, read_frame

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "CHUNK",
    "INLINE_LIMIT",
    "Room",
    "as_value",
    "chunks_of",
    "dtype_from_text",
    "dtype_to_text",
    "frames_of",
    "read_frame",
    "read_only",
    "size_of",
    "value_from_chunks",
    "value_from_proto",
    "value_to_proto",
]

INLINE_LIMIT = 1 << 20
"""Bytes above which a value does not go inside a message, but as a stream of its own."""

CHUNK = 1 << 20
"""Bytes in each message of a stream."""

_SMALL = 1 << 12  # of a streamed tuple, what goes along in the first message
_MESSAGE = 1 << 26  # bytes of values that one message holds at most
_DEEPEST = 40  # lists in lists; protobuf reads messages in messages up to some depth only


class Room:
    """How much more fits into one message: many values that are small each are not, together.

    Args:
        count: of the values.

    Attributes:
        is_plenty: whether there is room for so many, however large each that goes inside may be.
    """

    def __init__(self, count: int) -> None:
        self.is_plenty = count * INLINE_LIMIT <= _MESSAGE
        self._left = _MESSAGE

    def for_bytes(self, size: int) -> bool:
        """Take room for a value of so many bytes, if it is not too large."""
        if size > INLINE_LIMIT or size > self._left:
            return False
        self._left -= size
        return True


def as_value(result: Any, depth: int = 0) -> Any:
    """Return ``result`` as a value: an array, None, or a tuple or list of values.

    A tuple is several values; a list is too, if an array or None is in it, and otherwise it is
    what :func:`numpy.asarray` makes of it.

    Raises:
        TypeError: it has no dtype but object.
        ValueError: NumPy can make no array of it, or there are lists in lists without end.
    """
    if depth > _DEEPEST:
        raise ValueError(f"there are lists and tuples in it that are nested {_DEEPEST} deep")
    if isinstance(result, np.ndarray) and type(result) is not np.ndarray:
        result = np.asarray(result)
    if isinstance(result, np.ndarray):
        array = result
    elif result is None:
        return None
    elif isinstance(result, tuple):
        return tuple(as_value(item, depth + 1) for item in result)
    elif isinstance(result, list) and _holds_values(result):
        return [as_value(item, depth + 1) for item in result]
    else:
        array = np.asarray(result)
    # Variable strings count as objects for NumPy, and are none.
    if array.dtype.hasobject and array.dtype.kind != "T":
        kind = "" if isinstance(result, np.ndarray) else f" made of {type(result).__qualname__}"
        raise TypeError(
            f"an array of dtype {array.dtype}{kind} is no tensor: "
            "its elements have to be numbers, strings, dates or records of those"
        )
    return array


def _holds_values(items: list[Any]) -> bool:
    return any(
        item is None
        or (isinstance(item, np.ndarray) and item.ndim > 0)
        or isinstance(item, tuple)
        or (isinstance(item, list) and _holds_values(item))
        for item in items
    )


def read_only(value: Any) -> Any:
    """Return the value with each array replaced by a view that cannot be written to."""
    if isinstance(value, np.ndarray):
        if value.flags.writeable:
            value = value.view()
            value.flags.writeable = False
        return value
    if isinstance(value, (tuple, list)):
        return type(value)(map(read_only, value))
    return value


def size_of(value: Any) -> int:
    """Return how many bytes the arrays of a value take on the wire."""
    if isinstance(value, np.ndarray):
        return value.nbytes if value.dtype.kind != "T" else len(_content(value))
    if isinstance(value, (tuple, list)):
        return sum(map(size_of, value))
    return 0


def value_to_proto(value: Any) -> Value:
    """Return the message for a value (see :func:`as_value`), all of it inside."""
    return _encode(value, None)


def chunks_of(value: Any) -> Iterator[ValueChunk]:
    """Yield the messages of a value as a stream: what it is, then the bytes of its arrays."""
    what, pieces = _in_pieces(value)
    yield ValueChunk(value=what)
    for piece in pieces:
        yield ValueChunk(chunk=bytes(piece))


def frames_of(value: Any) -> Iterator[bytes]:
    """Yield what :func:`chunks_of` does, in bytes."""
    what, pieces = _in_pieces(value)
    yield ValueChunk(value=what).SerializeToString()
    yield from map(chunk_frame, pieces)


def _in_pieces(value: Any) -> tuple[Value, Iterator[memoryview | bytes]]:
    """Return what a value is, and its bytes in pieces."""
    parts: list[memoryview | bytes] = []
    what = _encode(value, parts)
    return what, (p[at : at + CHUNK] for p in parts for at in range(0, len(p), CHUNK))


def _encode(value: Any, parts: list[memoryview | bytes] | None) -> Value:
    """Write a value; what is not small goes to ``parts`` if there are any."""
    if value is None:
        return Value(none=True)
    if isinstance(value, (tuple, list)):
        items = [_encode(item, parts) for item in value]
        return Value(list=ValueList(value=items, mutable=isinstance(value, list)))
    proto = TensorProto(dtype=dtype_to_text(value.dtype), shape=value.shape)
    content = _content(value)
    if parts is None or len(content) <= _SMALL:
        proto.content = bytes(content)
    else:
        proto.streamed_bytes = len(content)
        parts.append(content)
    return Value(tensor=proto)


def _content(array: np.ndarray[Any, Any]) -> memoryview | bytes:
    """Return the bytes of an array in C order, without a copy where it has them so."""
    if array.dtype.kind == "T":
        texts = [
            text.encode("utf-8", "surrogatepass") if isinstance(text, str) else None
            for text in array.ravel().tolist()
        ]
        lengths = np.array([-1 if text is None else len(text) for text in texts], dtype="<i8")
        return lengths.tobytes() + b"".join(text for text in texts if text)
    if array.nbytes == 0:
        return b""
    # Not ascontiguousarray: it gives an array without dimensions one.
    return np.asarray(array, order="C").reshape(-1).view(np.uint8).data
