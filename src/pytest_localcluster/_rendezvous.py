"""Where processes of one run that share something find who has it, or become the one to start it.

The place is an abstract socket: a name in the kernel, not a file, so it is free again when the last
process that holds the socket is dead, however it died, and nothing is left to remove. To bind is to
win: exactly one of many that come at once does, and hands the listening socket to the process that
is to serve. All others connect, and are answered once that process accepts them. Whoever is not
answered (the winner was killed before it had started anybody, or who served has ended) comes again:
so each either gets a connection to a process that lives, or wins.

Both ends ask the kernel whose process the other is, and talk to none of another user's. Such a name
is known in one network namespace only; in another one there is another place.

Abstract sockets are Linux's. Elsewhere there is no such place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import select
import socket
import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Literal

from ._clock import Deadline, poll
from ._core.sockets import blocking

__all__ = ["AVAILABLE", "accept", "join", "meet", "name", "peer", "receive", "send"]

AVAILABLE = sys.platform.startswith("linux")
"""Whether there are abstract sockets here."""

_BACKLOG = 128
_GREETING = b"+"
_LONGEST = 100  # an address of the kernel's has room for 107 bytes
_LENGTH = struct.Struct("!Q")
_CREDENTIALS = struct.Struct("3i")
_FD = array("i").itemsize
_RIGHTS = socket.CMSG_LEN(16 * _FD)  # for more descriptors than anybody sends at once
_PIECE = 1 << 20


def name(*parts: object) -> bytes:
    """Return the address of the place that this user's processes with equal ``parts`` meet at."""
    text = "/".join(["pytest-localcluster", str(os.getuid()), *map(str, parts)])
    address = b"\0" + os.fsencode(text)
    if len(address) > _LONGEST:
        digest = hashlib.sha256(address).hexdigest().encode()
        address = address[: _LONGEST - len(digest)] + digest
    return address


def join(address: bytes) -> tuple[Literal["listener", "peer"], socket.socket]:
    """Bind ``address`` and listen there, or else connect to who does; tell which of both it was.

    Raises:
        ConnectionRefusedError: somebody has bound it and does not listen, or not any more.
        BlockingIOError: so many wait to be accepted that there is no room for one more.
        PermissionError: a process of another user has it.
    """
    sock = blocking(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        try:
            sock.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            sock.listen(_BACKLOG)
            return "listener", sock
        sock.setblocking(False)  # else it would wait for room, for ever
        sock.connect(address)
        sock.setblocking(True)
        _check(sock)
    except BaseException:
        sock.close()
        raise
    return "peer", sock


def meet(
    address: bytes, start: Callable[[socket.socket], object], deadline: Deadline
) -> socket.socket:
    """Return a connection to the process that serves at ``address``, of which there is one.

    Args:
        address: where it is; see :func:`name`.
        start: called with the listening socket if nobody has it yet: it is to start the process
            that accepts there, and to give it the socket, which is closed here when it returns.
        deadline: when to give up.

    Raises:
        TimeoutError: nobody has answered by the deadline.
        PermissionError: a process of another user has the address.
    """

    def attempt() -> socket.socket | None:
        try:
            kind, sock = join(address)
        except (ConnectionRefusedError, BlockingIOError):
            return None
        with contextlib.ExitStack() as undo:
            undo.callback(sock.close)
            if kind == "listener":
                start(sock)
            else:
                # A reset: it was not accepted, and who would have done so is gone.
                with contextlib.suppress(ConnectionResetError):
                    if _readable(sock, deadline) and sock.recv(1) == _GREETING:
                        undo.pop_all()
                        return sock
        return None

    found = poll(attempt, deadline)
    if found is None:
        raise TimeoutError(
            f"nobody has answered at the abstract socket {os.fsdecode(address[1:])!r}"
            + ("" if deadline.seconds is None else f" in {deadline.seconds:g} s")
        )
    return found


def accept(listener: socket.socket) -> socket.socket | None:
    """Accept and greet who has connected; None if that is another user's, or gone already."""
    sock, _ = listener.accept()
    try:
        blocking(sock)
        _check(sock)
        sock.sendall(_GREETING)
    except OSError:
        sock.close()
        return None
    return sock


def peer(sock: socket.socket) -> tuple[int, int]:
    """Return pid and uid of who has connected, or has listened, at the other end."""
    option = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(option)
    return pid, uid


def send(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send ``data`` as one message, and descriptors with it; they stay open here as well."""
    head = _LENGTH.pack(len(data))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    sent = sock.sendmsg([head], rights)
    sock.sendall(head[sent:])
    sock.sendall(data)


def receive(sock: socket.socket, deadline: Deadline | None = None) -> tuple[bytes, list[int]]:
    """Read one message and the descriptors that came with it, which are the caller's to close.

    Raises:
        EOFError: the other end is gone.
        TimeoutError: it was not all there by the deadline, if there is one.
    """
    fds: list[int] = []
    try:
        (length,) = _LENGTH.unpack(_read(sock, _LENGTH.size, deadline, fds))
        return _read(sock, length, deadline, fds), fds
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _read(sock: socket.socket, size: int, deadline: Deadline | None, fds: list[int]) -> bytes:
    data = bytearray()
    while len(data) < size:
        if deadline is not None and not _readable(sock, deadline):
            raise TimeoutError
        with contextlib.suppress(ConnectionResetError):
            # Not socket.recv_fds: it forgets the flags that it is given.
            part, rights, _, _ = sock.recvmsg(
                min(size - len(data), _PIECE), _RIGHTS, socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, payload in rights:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds += array("i", payload[: len(payload) - len(payload) % _FD])
            data += part
            if part:
                continue
        raise EOFError
    return bytes(data)


def _check(sock: socket.socket) -> None:
    pid, uid = peer(sock)
    if uid != os.getuid():
        raise PermissionError(f"process {pid} at the other end is of user {uid}, not of ours")


def _readable(sock: socket.socket, deadline: Deadline) -> bool:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    left = deadline.remaining()
    return bool(poller.poll(None if left is None else min(left * 1000, 2.0**31 - 1)))
