"""Values on the wire: NumPy arrays, None, and tuples or lists of those, whole or in chunks.

Every dtype travels but object: strings of fixed and variable width, dates, complex and structured
ones, in any byte order. A value that is larger than :data:`INLINE_LIMIT` should go as a stream of
chunks, which the receiver reads straight into the array that it returns: there is no limit to the
size of a tensor, while a protobuf message ends at 2 GiB.
"""

from __future__ import annotations

import base64
import functools
import math
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np

from ._proto.graph_pb2 import TensorProto, Value, ValueChunk, ValueList
from .errors import DataLossError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "CHUNK",
    "INLINE_LIMIT",
    "as_value",
    "chunks_of",
    "dtype_from_text",
    "dtype_to_text",
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
_PICKLED = "pickle:"


def as_value(result: Any) -> Any:
    """Return ``result`` as a value: an array, None, or a tuple or list of values.

    A tuple is several values; a list is too, if an array or None is in it, and otherwise it is
    what :func:`numpy.asarray` makes of it.

    Raises:
        TypeError: it has no dtype but object.
        ValueError: NumPy can make no array of it.
    """
    if isinstance(result, np.ndarray) and type(result) is not np.ndarray:
        result = np.asarray(result)
    if isinstance(result, np.ndarray):
        array = result
    elif result is None:
        return None
    elif isinstance(result, tuple):
        return tuple(map(as_value, result))
    elif isinstance(result, list) and _holds_values(result):
        return [as_value(item) for item in result]
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


@functools.lru_cache(maxsize=256)
def dtype_to_text(dtype: np.dtype[Any]) -> str:
    """Return the text that stands for a dtype in messages."""
    if dtype.names is None and dtype.kind != "T" and np.dtype(dtype.str) == dtype:
        return dtype.str
    return _PICKLED + base64.b64encode(pickle.dumps(dtype)).decode()


@functools.lru_cache(maxsize=256)
def dtype_from_text(text: str) -> np.dtype[Any]:
    """Return the dtype that :func:`dtype_to_text` wrote.

    Raises:
        DataLossError: it did not write that.
    """
    try:
        if text.startswith(_PICKLED):
            # Only peers that know the cluster's token get here, and those may send code anyway.
            dtype = pickle.loads(base64.b64decode(text[len(_PICKLED) :]))
        else:
            dtype = np.dtype(text)
    except Exception as error:
        raise DataLossError(
            f"a tensor came with dtype {text!r}, which cannot be read: {error}"
        ) from error
    if not isinstance(dtype, np.dtype) or (dtype.hasobject and dtype.kind != "T"):
        raise DataLossError(f"a tensor came with dtype {text!r}, which no tensor can have")
    return dtype


def value_to_proto(value: Any) -> Value:
    """Return the message for a value (see :func:`as_value`), all of it inside."""
    return _encode(value, None)


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


def chunks_of(value: Any) -> Iterator[ValueChunk]:
    """Yield the messages of a value as a stream: what it is, then the bytes of its arrays."""
    parts: list[memoryview | bytes] = []
    yield ValueChunk(value=_encode(value, parts))
    for part in parts:
        for start in range(0, len(part), CHUNK):
            yield ValueChunk(chunk=bytes(part[start : start + CHUNK]))


def value_from_chunks(chunks: Iterable[ValueChunk]) -> Any:
    """Return the value that :func:`chunks_of` sent; its arrays are new and writable.

    Raises:
        DataLossError: bytes are missing, or too many.
    """
    stream = iter(chunks)
    first = next(stream, None)
    if first is None:
        raise DataLossError("a stream that should bring a value ended before its first message")
    value = _decode(first.value, stream)
    if next(stream, None) is not None:
        raise DataLossError("a stream brought more bytes than its first message said")
    return value


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


def _decode(proto: Value, stream: Iterator[ValueChunk] | None) -> Any:
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
        if dtype.kind == "T":
            content = tensor.content
            if tensor.streamed_bytes:
                content = bytes(_fill(bytearray(tensor.streamed_bytes), stream))
            return _strings(content, shape, dtype)
        if tensor.streamed_bytes:
            array = np.empty(shape, dtype)
            if array.nbytes == tensor.streamed_bytes:
                _fill(array.reshape(-1).view(np.uint8), stream)
                return array
        elif dtype.itemsize == 0:
            return np.empty(shape, dtype)
        else:
            array = np.frombuffer(tensor.content, dtype).reshape(shape)
            return array if stream is None else array.copy()
    except ValueError as error:
        raise DataLossError(
            f"a tensor of dtype {dtype} and shape {shape} came damaged: {error}"
        ) from error
    raise DataLossError(
        f"a tensor of dtype {dtype} and shape {shape} takes {array.nbytes} bytes, "
        f"and {tensor.streamed_bytes} were announced"
    )


def _fill(buffer: Any, stream: Iterator[ValueChunk] | None) -> Any:
    """Read the stream into ``buffer`` until that is full."""
    target, filled = memoryview(buffer), 0
    while filled < len(target):
        message = None if stream is None else next(stream, None)
        if message is None or not message.chunk:
            raise DataLossError(f"a stream ended after {filled} of {len(target)} bytes of a tensor")
        chunk = message.chunk
        target[filled : filled + len(chunk)] = chunk  # ValueError if it is too long
        filled += len(chunk)
    return buffer


def _strings(content: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Read strings of variable width back; see TensorProto.content."""
    count = math.prod(shape)
    position, texts = 8 * count, []
    for length in np.frombuffer(content, "<i8", count).tolist():
        if length < 0:
            texts.append(dtype.na_object)  # type: ignore[attr-defined]  # StringDType has it
        else:
            texts.append(content[position : position + length].decode("utf-8", "surrogatepass"))
            position += length
    if position != len(content):
        raise ValueError(f"{count} strings should take {position} bytes, not {len(content)}")
    return np.array(texts, dtype=dtype).reshape(shape)


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, (tuple, list)):
        return type(value)(map(_copied, value))
    return value
