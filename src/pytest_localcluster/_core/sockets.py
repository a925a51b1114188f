"""The package's own sockets: blocking, whatever ``socket.setdefaulttimeout()`` is.

A default timeout, set by a conftest, a test or a preloaded module, makes every new socket raise
instead of wait. It also sets O_NONBLOCK, which belongs to the open file and so is in force in every
process that holds it: both who makes a socket and who receives its descriptor must clear it.

gevent's sockets are non-blocking underneath, for the same effect at the other end.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["adopt", "blocking", "need_sockets", "new_socketpair"]

_BLOCKED = "A test tried to use socket"  # so begins what pytest-socket raises, and warns of


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


@contextmanager
def need_sockets(what: str) -> Iterator[None]:
    """Have a block name what needs sockets, and the remedy, if pytest-socket refuses it one.

    Raises:
        StartError: that is so.
    """
    try:
        yield
    except (RuntimeError, UserWarning) as error:
        if not str(error).startswith(_BLOCKED):
            raise
        raise StartError(
            f"pytest-socket refuses the sockets of this machine that {what} needs: {error}",
            remedy="allow them with --allow-hosts=127.0.0.1,::1 --allow-unix-socket, which blocks "
            "all others, or for one test with @pytest.mark.enable_socket",
        ) from error
