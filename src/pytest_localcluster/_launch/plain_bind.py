"""Runs in a task: lets a plain ``socket.bind`` have a port that a lease of the test process holds.

A lease leaves its port to servers that set SO_REUSEADDR. Code in a task that does not, such as a
:mod:`socketserver`, would be refused the task's own ports, MASTER_PORT and the ports that the test
has leased for it. So a bind that is refused is tried once more with the option: beside a lease,
which does not listen, that succeeds; beside a listening socket it is refused.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

__all__ = ["allow"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_bind = socket.socket.bind


def allow() -> None:
    """Have all Python sockets of this process bind like that."""
    socket.socket.bind = bind  # type: ignore[method-assign,assignment]


def bind(self: socket.socket, address: Any, /) -> None:
    """Bind the socket to a local address."""
    try:
        _bind(self, address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _may_be_leased(self):
            raise
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            _bind(self, address)
        except OSError:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            raise error from None


def _may_be_leased(sock: socket.socket) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    return not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
