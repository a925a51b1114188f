"""Runs where the relays run: one link, from one task to another, and all of its connections."""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections.abc import Sequence
from contextlib import suppress

from .._core.listeners import others_at
from ..errors import PortError
from .connection import Address, Connection, reset
from .loop import UNTROUBLED, Condition, Loop

__all__ = ["Link"]

_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_BACKLOG = 4096
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Link:
    """Accepts connections at a port, and ties each to one that it makes to the target.

    What a held link accepts is up to the kernel: connections come up, as many as its backlog has
    room for, and wait there with all that is sent over them. A cut link listens nowhere, so that
    new connections are refused.

    Args:
        loop: of the process.
        port: where it listens, on both loopback addresses.
        target: the port where the task serves.

    Raises:
        PortError: somebody else listens at ``port``.
    """

    def __init__(self, loop: Loop, port: int, target: int) -> None:
        self.connections: set[Connection] = set()
        self._loop = loop
        self._port = port
        self._target = target
        self._condition = UNTROUBLED
        self._spare = os.open(os.devnull, os.O_RDONLY)
        self._listeners: list[socket.socket] = []
        self._listen()

    def take(self, condition: Condition) -> None:
        """Be under another condition from now on.

        Raises:
            PortError: while it was cut somebody else took its port; it stays cut.
        """
        if condition.cut:
            self._condition = condition
            self._refuse()
            for connection in list(self.connections):
                connection.reset()
            return
        if self._condition.cut:
            self._listen()
        if condition.held != self._condition.held:
            for listener in self._listeners:
                self._watch(listener, not condition.held)
        self._condition = condition
        for connection in list(self.connections):
            connection.take(condition)

    def close(self) -> None:
        """Close everything. Idempotent."""
        self._refuse()
        for connection in list(self.connections):
            connection.close()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def _listen(self) -> None:
        self._condition = UNTROUBLED
        try:
            for family, host in _LOOPBACK:
                listener = _listener(family, host, self._port)
                if listener is not None:
                    self._listeners.append(listener)
                    self._watch(listener, True)
        except OSError as error:
            self._refuse()
            self._condition = Condition(cut=True)
            address = f"localhost:{self._port}"
            raise PortError(
                f"port {self._port} of a link between tasks is taken{others_at(address)}",
                address=address,
                evidence=str(error),
                remedy="start the cluster again; it gets fresh ports",
            ) from None

    def _refuse(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            if not self._condition.held:
                self._watch(listener, False)
            listener.close()

    def _watch(self, listener: socket.socket, wanted: bool) -> None:
        selector = self._loop.selector
        if wanted:
            selector.register(listener, selectors.EVENT_READ, lambda events: self._accept(listener))
        else:
            selector.unregister(listener)

    def _accept(self, listener: socket.socket) -> None:
        if listener not in self._listeners or self._condition.held:
            return  # changed by what happened just before
        try:
            client, _ = listener.accept()
        except OSError as error:
            if error.errno in _FULL:
                self._turn_away(listener)
            return  # or whoever it was is gone again
        connection = Connection(
            self._loop, client, self._targets(listener), self._condition, self.connections.discard
        )
        self.connections.add(connection)
        connection.dial()

    def _turn_away(self, listener: socket.socket) -> None:
        """Reset a connection for which no descriptor is left; unaccepted it would come for ever."""
        os.close(self._spare)
        with suppress(OSError):
            reset(listener.accept()[0])
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def _targets(self, listener: socket.socket) -> Sequence[Address]:
        """Return where the target may be, beginning with the client's own address family.

        Programs differ in which loopback address they bind, and in which they dial.
        """
        found = [(family, (host, self._target)) for family, host in _LOOPBACK]
        return found if listener.family == socket.AF_INET else found[::-1]


def _listener(family: socket.AddressFamily, host: str, port: int) -> socket.socket | None:
    """Return a socket that listens; None where there is no such address."""
    try:
        listener = socket.socket(family)
    except OSError:
        return None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port is leased
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if family == socket.AF_INET6 and error.errno in _NO_SUCH_ADDRESS:
            return None
        raise
    listener.setblocking(False)
    return listener
