"""The messages of a stream that brings a value, as the bytes that they are on the wire.

protobuf would copy the bytes of each chunk twice on either side, which is most of what a large
tensor costs. So these ValueChunks are written and read by hand.
"""

from __future__ import annotations

from .._proto.graph_pb2 import ValueChunk

__all__ = ["Chunk", "chunk_frame", "read_frame"]

_FIELD = ValueChunk.DESCRIPTOR.fields_by_name["chunk"].number
_TAG = _FIELD << 3 | 2  # of a field with a length
assert _TAG < 0x80


class Chunk:
    """A ValueChunk that brings bytes, without a copy of them."""

    __slots__ = ("chunk",)

    def __init__(self, chunk: memoryview) -> None:
        self.chunk = chunk


def chunk_frame(content: memoryview | bytes) -> bytes:
    """Return ``ValueChunk(chunk=content)`` in bytes."""
    head, length = bytearray([_TAG]), len(content)
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return b"".join((head, content))


def read_frame(data: bytes) -> ValueChunk | Chunk:
    """Return the message that ``data`` is.

    Raises:
        google.protobuf.message.DecodeError: it is none.
    """
    if data[:1] == bytes([_TAG]):
        length = shift = 0
        for position in range(1, min(len(data), 10)):
            byte = data[position]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if position + 1 + length == len(data):  # and nothing else is in it
                    return Chunk(memoryview(data)[position + 1 :])
                break
    return ValueChunk.FromString(data)
