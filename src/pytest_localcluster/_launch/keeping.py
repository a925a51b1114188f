"""Runs in the forkserver: the tasks that are kept when the test process ends.

A test that has failed may want its cluster to stay. What a task needs of the test process (the
other end of its control socket, the lease of its port) is given to the forkserver, while both go on
as before. When the test process ends, in whatever way, the forkserver ends all other tasks, and
lives as long as one that is kept does. Its guard, which it tells of the first one, then waits for
the forkserver, and not for the test process. Who ends a kept cluster ends its tasks: the rest goes
with them.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from functools import partial
from typing import TYPE_CHECKING

from pytest_localcluster._core import sockets
from pytest_localcluster._launch import family
from pytest_localcluster._launch.wire import KEEP_SIGNAL

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Keeping"]


class Keeping:
    """What is held for the tasks that are kept.

    Args:
        guard: the process to tell of the first one.
        selector: of the forkserver's loop.
    """

    def __init__(self, guard: int, selector: selectors.BaseSelector) -> None:
        self._guard = guard
        self._selector = selector
        self._pids: set[int] = set()
        self._sockets: list[socket.socket] = []
        self._leases: list[int] = []
        self.alone = False  # the test process is gone

    def take(self, pid: int, control: int) -> None:
        """Keep a task; ``control`` is the test process's end of its control socket."""
        if not self._pids:
            os.kill(self._guard, KEEP_SIGNAL)
        self._pids.add(pid)
        self._sockets.append(sockets.adopt(control))

    def hold(self, leases: Iterable[int]) -> None:
        """Keep ports: these descriptors hold them."""
        self._leases.extend(leases)

    def living(self, tasks: Iterable[int]) -> bool:
        """Tell whether one of these tasks is kept."""
        return not self._pids.isdisjoint(tasks)

    def end_others(self, tasks: Iterable[int]) -> None:
        """End the tasks that are not kept: the test process is gone."""
        self.alone = True
        for pid in tasks:
            if pid not in self._pids:
                family.kill(pid)
        for sock in self._sockets:
            # What it still tells of functions that were running, nobody else will read.
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ, partial(self._discard, sock))

    def _discard(self, sock: socket.socket) -> None:
        try:
            ended = not sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            self._selector.unregister(sock)

    def close(self) -> None:
        """Give back, in a new task, what is not its own."""
        for sock in self._sockets:
            sock.close()
        for lease in self._leases:
            with contextlib.suppress(OSError):
                os.close(lease)
