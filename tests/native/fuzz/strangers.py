"""Callers who do not know the token, and what they would have a task do."""

from __future__ import annotations

import base64
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pytest_localcluster._proto.graph_pb2 import Value

MARK = "the pickle was opened"


class Opens:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return self._path.write_text, (MARK,)


def trapped(kind: type[Message], pickled: bytes, depth: int = 6) -> Any:
    """Return a message with a pickle wherever one can be; each value is a tensor of a bad dtype."""
    message = kind()
    field: Any
    for field in message.DESCRIPTOR.fields:
        inside: Any = field.name
        if field.message_type is not None:
            if field.message_type.GetOptions().map_entry or not depth:
                continue
            if kind is Value and field.name != "tensor":
                continue
            inner = message_factory.GetMessageClass(field.message_type)
            inside = trapped(inner, pickled, depth - 1)
        elif field.name == "dtype":
            inside = "pickle:" + base64.b64encode(pickled).decode()
        elif field.type == FieldDescriptor.TYPE_BYTES:
            inside = pickled
        elif field.type != FieldDescriptor.TYPE_STRING or kind is Value:
            continue
        if field.is_repeated:
            getattr(message, field.name).append(inside)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(inside)
        else:
            setattr(message, field.name, inside)
    return message


def call_in_every_way(
    channel: grpc.Channel, path: str, data: bytes, metadata: Any, timeout: float = 10
) -> Iterator[grpc.RpcError]:
    """Call a method as each of the four kinds; yield the error of each."""
    for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        request: Any = iter([data, data]) if kind.startswith("stream") else data
        call: Any = getattr(channel, kind)(path)
        try:
            answer = call(request, metadata=metadata, timeout=timeout)
            if kind.endswith("stream"):
                list(answer)
        except grpc.RpcError as error:
            yield error
        else:
            raise AssertionError(f"{path} answered a stranger who called it as {kind}")


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def raw_call(port: int, path: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Call with headers that no gRPC client would send; return the frames that come back."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *headers,
    ]
    block = b"".join(
        b"\x00" + _length(len(name)) + name + _length(len(value)) + value for name, value in fields
    )
    frames = _frame(4, 0, 0, b"") + _frame(1, 4, 1, block) + _frame(0, 1, 1, bytes(5))
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(PREFACE + frames)
        while b"grpc-status" not in received and not _is_reset(received):
            data = sock.recv(65536)
            if not data:
                break
            received += data
    return received


def _length(number: int) -> bytes:
    if number < 127:
        return bytes((number,))
    result, number = bytearray((127,)), number - 127
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    return bytes((*result, number))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes((kind, flags))
        + struct.pack(">I", stream)
        + payload
    )


def _is_reset(data: bytes) -> bool:
    """Tell whether a frame among these ends the stream or the connection."""
    at = 0
    while at + 9 <= len(data):
        if data[at + 3] in (3, 7):
            return True
        at += 9 + int.from_bytes(data[at : at + 3])
    return False
