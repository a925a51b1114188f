"""Both ends of the sockets and pipes between the test process, the forkserver and its tasks."""

from __future__ import annotations

import pickle
import select
import signal
import socket
import struct
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_localcluster._clock import Deadline

__all__ = [
    "AHEAD",
    "DONE",
    "DUMP_SIGNAL",
    "END",
    "KEEP",
    "KEEP_SIGNAL",
    "KEPT_AT_ONCE",
    "LATE",
    "LAUNCH",
    "ORDERS",
    "PING",
    "REQUEST",
    "SIGNAL",
    "STATUS",
    "pack",
    "read_exactly",
    "readable",
    "receive",
    "send",
    "send_all",
    "writable",
]

REQUEST = struct.Struct("!BQ")
"""A request to the forkserver: what is asked, and the length of the pickle that follows."""

LAUNCH, SIGNAL, AHEAD, PING, END, KEEP = range(6)

KEPT_AT_ONCE = 64
"""How many descriptors go with one request to keep something, at most."""

DONE, LATE = b"\0", b"\1"
"""How the forkserver answers a request that is to be acknowledged."""

ORDERS = struct.Struct("!Q")
"""What makes a task of a process that was forked ahead: the length of the payload that follows."""

STATUS = struct.Struct("!i")
"""What a task's status pipe carries: its pid once it is forked, then its exit code."""

DUMP_SIGNAL = signal.SIGRTMIN + 9 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
"""Makes a task write the stacks of all its threads to its log, whatever it is doing."""

KEEP_SIGNAL = signal.SIGUSR2
"""Tells a guard that its forkserver keeps tasks, and a forkserver that the test process is gone."""

_LENGTH = struct.Struct("!Q")


def pack(message: object) -> bytes:
    """Return a message as it goes over a control socket."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


def send(sock: socket.socket, message: object) -> None:
    """Send one message over a control socket."""
    sock.sendall(pack(message))


def send_all(sock: socket.socket, data: bytes, deadline: Deadline, fds: Sequence[int] = ()) -> None:
    """Send ``data``, with descriptors at its beginning; TimeoutError if it is not taken in time."""
    rest, poller = memoryview(data), select.poll()
    poller.register(sock, select.POLLOUT)
    while rest:
        try:
            # Not socket.send_fds: it forgets the flags that it is given.
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            sent = sock.sendmsg([rest], rights, socket.MSG_DONTWAIT)
            rest, fds = rest[sent:], ()
        except BlockingIOError:
            if not poller.poll(_milliseconds(deadline)):
                raise TimeoutError from None


def receive(sock: socket.socket, deadline: Deadline | None = None) -> Any:
    """Read one message from a control socket.

    Raises:
        EOFError: the other end is gone.
        TimeoutError: the message was not all there by the deadline, if there is one.
    """
    (length,) = _LENGTH.unpack(read_exactly(sock, _LENGTH.size, deadline))
    return pickle.loads(read_exactly(sock, length, deadline))


def read_exactly(sock: socket.socket, size: int, deadline: Deadline | None = None) -> bytearray:
    """Read ``size`` bytes; EOFError if the other end is gone before that."""
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        if deadline is not None and not readable(sock.fileno(), deadline):
            raise TimeoutError
        count = sock.recv_into(view[filled:])
        if count == 0:
            raise EOFError
        filled += count
    return data


def readable(fd: int, deadline: Deadline) -> bool:
    """Wait until ``fd`` has something to read, or its end; tell whether that came in time."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(_milliseconds(deadline)))


def writable(fd: int, deadline: Deadline) -> bool:
    """Wait until ``fd`` takes something, or its end; tell whether that came in time."""
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(_milliseconds(deadline)))


def _milliseconds(deadline: Deadline) -> float | None:
    """Return what is left as poll takes it, which counts up to 24 days."""
    left = deadline.remaining()
    return None if left is None else min(left * 1000, 2.0**31 - 1)
