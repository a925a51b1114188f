"""The package's own sockets: blocking, whatever ``socket.setdefaulttimeout()`` is.

A default timeout, set by a conftest, a test or a preloaded module, makes every new socket raise
instead of wait. It also sets O_NONBLOCK, which belongs to the open file and so is in force in every
process that holds it: both who makes a socket and who receives its descriptor must clear it.

gevent's sockets are non-blocking underneath, for the same effect at the other end.
"""

from __future__ import annotations

import socket

__all__ = ["adopt", "blocking", "new_socketpair"]


def blocking(sock: socket.socket) -> socket.socket:
    """Return ``sock``, without a timeout from now on."""
    sock.setblocking(True)
    return sock


def new_socketpair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets, both blocking."""
    one, other = socket.socketpair()
    return blocking(one), blocking(other)


def adopt(fd: int) -> socket.socket:
    """Return a blocking socket that owns the descriptor ``fd``."""
    return blocking(socket.socket(fileno=fd))
