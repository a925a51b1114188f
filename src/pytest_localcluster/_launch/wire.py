"""Both ends of the sockets and pipes between the test process, the forkserver and its tasks."""

from __future__ import annotations

import pickle
import signal
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

__all__ = [
    "AHEAD",
    "DUMP_SIGNAL",
    "LAUNCH",
    "ORDERS",
    "REQUEST",
    "SIGNAL",
    "STATUS",
    "read_exactly",
    "receive",
    "send",
]

REQUEST = struct.Struct("!BQ")
"""A request to the forkserver: what is asked, and the length of the pickle that follows."""

LAUNCH, SIGNAL, AHEAD = 0, 1, 2
ORDERS = struct.Struct("!Q")
"""What makes a task of a process that was forked ahead: the length of the payload that follows."""

STATUS = struct.Struct("!i")
"""What a task's status pipe carries: its pid once it is forked, then its exit code."""

DUMP_SIGNAL = signal.SIGRTMIN + 9 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
"""Makes a task write the stacks of all its threads to its log, whatever it is doing."""

_LENGTH = struct.Struct("!Q")


def send(sock: socket.socket, message: object) -> None:
    """Send one message over a control socket."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    sock.sendall(_LENGTH.pack(len(data)) + data)


def receive(sock: socket.socket) -> Any:
    """Read one message from a control socket; EOFError at its end."""
    (length,) = _LENGTH.unpack(read_exactly(sock, _LENGTH.size))
    return pickle.loads(read_exactly(sock, length))


def read_exactly(sock: socket.socket, size: int) -> bytearray:
    """Read ``size`` bytes; EOFError if the other end is gone before that."""
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = sock.recv_into(view[filled:])
        if count == 0:
            raise EOFError
        filled += count
    return data
