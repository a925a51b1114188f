"""Links: relays between the tasks of a cluster, which can be held, slowed and cut.

A process of its own runs the relays of a cluster, so that a busy test slows none of them; it is
launched, and dies, like a task. Below this file, from small to large::

    loop          what all connections share: a selector, a buffer, alarms
    flow          the bytes of one connection, in each direction
    connection    one that was accepted, tied to one that was made
    link          a listening port, and all connections that came in there

The loop has a thread to itself. Conditions change between two of its turns, so that all links
that one call names change at once.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from .._clock import Thread
from .._core import sockets
from ..errors import PortError
from .link import Link
from .loop import UNTROUBLED, Condition, Loop

if TYPE_CHECKING:
    from .._spec import Task

__all__ = ["UNTROUBLED", "Condition", "Links", "serve", "set_conditions"]

_serving: Links | None = None  # of this process


class Links:
    """Relays that run in a thread of this process.

    Args:
        ports: of each link the port where it listens and the one where its target serves.

    Raises:
        PortError: one of the ports is taken.
    """

    def __init__(self, ports: Sequence[tuple[int, int]]) -> None:
        self._loop = Loop()
        self._links: list[Link] = []
        self._orders: deque[Callable[[], None]] = deque()
        self._wakeup, self._bell = sockets.new_socketpair()
        self._wakeup.setblocking(False)
        self._loop.selector.register(self._wakeup, selectors.EVENT_READ, self._obey)
        self._running = True
        try:
            for port, target in ports:
                self._links.append(Link(self._loop, port, target))
        except PortError:
            self._close()
            raise
        self._thread = Thread(target=self._run, name="links", daemon=True)
        self._thread.start()

    def set_conditions(self, conditions: Mapping[int, Condition]) -> None:
        """Put links, by their place in ``ports``, under other conditions; return when they are.

        Raises:
            PortError: somebody took the port of a link that was cut; the others are as wanted.
        """
        failures: list[PortError] = []

        def change() -> None:
            for number, condition in conditions.items():
                try:
                    self._links[number].take(condition)
                except PortError as error:
                    failures.append(error)

        self._order(change)
        for failure in failures:
            raise failure

    def connections(self) -> int:
        """Return how many connections there are."""
        found: list[int] = []
        self._order(lambda: found.append(sum(len(link.connections) for link in self._links)))
        return found[0]

    def _order(self, order: Callable[[], None]) -> None:
        """Have the loop's thread do something; return when it is done."""
        done = threading.Event()

        def obey() -> None:
            try:
                order()
            finally:
                done.set()

        self._orders.append(obey)
        self._bell.send(b"\0")
        done.wait()

    def _obey(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(4096)
        while self._orders:
            self._orders.popleft()()

    def _run(self) -> None:
        while self._running:
            self._loop.turn()
        self._close()

    def _close(self) -> None:
        for link in self._links:
            link.close()
        self._loop.selector.close()
        self._wakeup.close()
        self._bell.close()

    def stop(self) -> None:
        """Close all connections and ports."""

        def end() -> None:
            self._running = False

        self._order(end)
        self._thread.join()

    def reset(self) -> None:
        """Do nothing: what is to be healed is known to the cluster."""

    def forget(self, task: Task) -> None:
        """Do nothing: a restarted task is where it was."""


def serve(ports: Sequence[tuple[int, int]]) -> Links:
    """Make this process the one that runs a cluster's links."""
    global _serving
    _take_descriptors()
    threading.excepthook = _die
    _serving = Links(ports)
    return _serving


def set_conditions(conditions: Mapping[int, Condition]) -> None:
    """Put links of this process under other conditions; see :meth:`Links.set_conditions`."""
    assert _serving is not None
    _serving.set_conditions(conditions)


def _take_descriptors() -> None:
    """Allow this process as many descriptors as it may have: a connection takes two."""
    try:
        import resource
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has a limit that it does not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _die(crash: threading.ExceptHookArgs) -> None:
    """End the process: the test shall hear of a link that does not work, and not wait for it."""
    threading.__excepthook__(crash)
    sys.stderr.flush()
    os._exit(1)
