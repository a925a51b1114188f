"""A thread of the test process that looks when tasks print, and when they die.

Files send no event when they grow, so it looks every few milliseconds: that is how late a line may
be on a timeline. The end of a process wakes it, where the kernel has descriptors of processes.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from typing import TYPE_CHECKING

from .. import _held

if TYPE_CHECKING:
    from .lane import Lane

__all__ = ["LATE", "Lookout"]

LATE = 0.005
"""Seconds between two looks."""


class Lookout:
    """Looks at lanes from :meth:`follow` to :meth:`leave`; there is a thread only meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: list[Lane] = []
        self._processes: dict[int, tuple[Lane, int, str]] = {}  # by descriptor, or by -pid
        self._thread: threading.Thread | None = None
        self._over = False

    def follow(self, lane: Lane) -> None:
        """Look at what a task prints from now on. Idempotent."""
        with self._lock:
            if lane not in self._lanes:
                self._lanes.append(lane)
            if self._thread is None:
                self._over = False
                self._thread = threading.Thread(
                    target=self._run, name="pytest-localcluster-timeline", daemon=True
                )
                self._thread.start()

    def came_up(self, lane: Lane, pid: int) -> None:
        """Look at the process of a task from now on."""
        if pid == os.getpid():
            return
        with self._lock:
            key = -pid
            if hasattr(os, "pidfd_open"):
                with contextlib.suppress(OSError):  # it is gone already, or we may not
                    key = os.pidfd_open(pid)
            self._processes[key] = lane, pid, _held.identity(pid)

    def look(self) -> None:
        """Look now."""
        with self._lock:
            self._look()

    def leave(self, lanes: list[Lane]) -> None:
        """Look at these for the last time; return when nobody looks any more."""
        thread = None
        with self._lock:
            self._look()
            for lane in lanes:
                if lane in self._lanes:
                    self._lanes.remove(lane)
                    lane.close()
            for key, (lane, _, _) in list(self._processes.items()):
                if lane in lanes:
                    self._forget(key)
            if not self._lanes:
                thread, self._thread, self._over = self._thread, None, True
        if thread is not None:
            thread.join()

    def _forget(self, key: int) -> None:
        del self._processes[key]
        if key >= 0:
            os.close(key)

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._over:
                    return
                self._look()
                poller = self._poller()
            poller.poll(LATE * 1000)

    def _poller(self) -> select.poll:
        poller = select.poll()
        for key in self._processes:
            if key >= 0:
                poller.register(key, select.POLLIN)
        return poller

    def _look(self) -> None:
        gone = {fd for fd, _ in self._poller().poll(0)}
        for key, (lane, pid, identity) in list(self._processes.items()):
            if key in gone or (key < 0 and not _held.lives(pid, identity)):
                lane.ended()
                self._forget(key)
        for lane in self._lanes:
            with contextlib.suppress(OSError):  # whatever somebody did to the log
                lane.look()
