"""Runs where the relays run: a connection that a relay accepted, tied to one that it makes."""

from __future__ import annotations

import errno
import selectors
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress

from .flow import End, Flow
from .loop import Condition, Loop

__all__ = ["Address", "Connection", "reset"]

Address = tuple[socket.AddressFamily, tuple[str, int]]

_BY_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: do not linger, and let the other side know

_ACCEPTED_AND_GONE = (errno.ECONNRESET, errno.EPIPE)  # a refusal has another number


def reset(sock: socket.socket) -> None:
    """Close a connection with a reset."""
    with suppress(OSError):  # some systems refuse to set anything on what is broken already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _BY_RESET)
    sock.close()


class Connection:
    """A connection that a relay accepted, tied to one that it makes to the target.

    Args:
        loop: of the process.
        client: the accepted socket.
        targets: the addresses to try, one after the other, until one does not refuse.
        condition: how the link is now; it is not cut.
        over: called with this connection once it is closed.
    """

    def __init__(
        self,
        loop: Loop,
        client: socket.socket,
        targets: Sequence[Address],
        condition: Condition,
        over: Callable[[Connection], object],
    ) -> None:
        self.loop = loop
        self.held = condition.held
        self.delay = condition.delay
        self.closed = False
        self._client = client
        self._targets = iter(targets)
        self._over = over
        self._ends: tuple[End, ...] = ()
        self._dialling: socket.socket | None = None

    def dial(self) -> None:
        """Begin to connect to the next target; reset the client if there is none."""
        for family, address in self._targets:
            try:
                target = socket.socket(family)
            except OSError:
                continue  # no such family here, or no descriptor to be had
            target.setblocking(False)
            if target.connect_ex(address) in (0, errno.EINPROGRESS):
                self._dialling = target
                self.loop.selector.register(target, selectors.EVENT_WRITE, self.dialled)
                return
            target.close()
        self.reset()

    def dialled(self, _events: int) -> None:
        """Go on: the target has accepted, or refused."""
        target, self._dialling = self._dialling, None
        if target is None:
            return  # it was closed by what happened just before
        self.loop.selector.unregister(target)
        error = target.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error not in (0, *_ACCEPTED_AND_GONE):
            target.close()
            self.dial()
            return
        near, far = End(self, self._client), End(self, target)
        near.gives = far.takes = Flow(near, far)
        far.gives = near.takes = Flow(far, near)
        # Asking for the error has taken it away: what was said before it is read as usual.
        far.gives.reset = error != 0
        self._ends = near, far
        self.take(Condition(held=self.held, delay=self.delay))

    def take(self, condition: Condition) -> None:
        """Be under another condition from now on; it is not cut."""
        self.held, self.delay = condition.held, condition.delay
        for end in self._ends:
            end.gives.flush()
        for end in self._ends:
            end.watch()  # also where a held flow has flushed nothing

    def reset(self) -> None:
        """Close both ends with a reset. Idempotent."""
        self._close(reset)

    def close(self) -> None:
        """Close both ends. Idempotent."""
        self._close(socket.socket.close)

    def _close(self, close: Callable[[socket.socket], None]) -> None:
        if self.closed:
            return
        self.closed = True
        if self._dialling is not None:
            self.loop.selector.unregister(self._dialling)
            close(self._dialling)  # it may have been accepted, and nobody has looked yet
            self._dialling = None
        for end in self._ends:
            end.tell_of(0)
            end.gives.clear()
            close(end.sock)
        if not self._ends:
            close(self._client)
        self._over(self)
