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
from .._clock import Thread

if TYPE_CHECKING:
    from .lane import Lane, Life

__all__ = ["LATE", "Lookout"]

LATE = 0.01
"""Seconds between two looks."""


class Lookout:
    """Looks at lanes from :meth:`follow` to :meth:`leave`; there is a thread only meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: list[Lane] = []
        # By descriptor, or by -pid: whose process it is, in which life.
        self._processes: dict[int, tuple[Lane, Life, int, str]] = {}
        self._thread: threading.Thread | None = None
        self._over = False

    def follow(self, lane: Lane) -> None:
        """Look at what a task prints from now on. Idempotent."""
        with self._lock:
            if lane not in self._lanes:
                self._lanes.append(lane)
            if self._thread is None:
                self._over = False
                self._thread = Thread(
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
            self._processes[key] = lane, lane.lives[-1], pid, _held.identity(pid)

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
            for key, (lane, *_) in list(self._processes.items()):
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
        poller, watched = select.poll(), set[int]()  # not for two threads at once
        woken = False
        while True:
            with self._lock:
                if self._over:
                    return
                self._look(ends=woken)
                wanted = self._descriptors()
            if wanted != watched:
                poller, watched = _poller(wanted), wanted
            woken = bool(poller.poll(LATE * 1000))

    def _descriptors(self) -> set[int]:
        return {key for key in self._processes if key >= 0}

    def _look(self, *, ends: bool = True) -> None:
        # Only here, with the lock: what woke the thread may have been closed since, and its number
        # be that of another process now.
        gone = {fd for fd, _ in _poller(self._descriptors()).poll(0)} if ends else set()
        for key, (_, life, pid, identity) in list(self._processes.items()):
            if key in gone or (key < 0 and not _held.lives(pid, identity)):
                life.over()
                self._forget(key)
        for lane in self._lanes:
            with contextlib.suppress(OSError):  # whatever somebody did to the log
                lane.look()


def _poller(descriptors: set[int]) -> select.poll:
    poller = select.poll()
    for fd in descriptors:
        poller.register(fd, select.POLLIN)
    return poller
