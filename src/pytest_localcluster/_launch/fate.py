"""What becomes of a process that the forkserver was asked for, as it tells over a status pipe."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

from .. import _held
from .._clock import Deadline
from .wire import STATUS, readable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Fate"]

_SLICE = 0.1
"""Seconds between two looks at whether another thread has closed the pipe that is waited for."""


class Fate:
    """The pid and the exit code of one process, once they are known.

    Args:
        pipe: the end of the status pipe to read from; it is closed when there is nothing to come.
        at_end: called when the forkserver has waited for the process.
    """

    def __init__(self, pipe: int, at_end: Callable[[], object]) -> None:
        self._pipe: int | None = pipe
        self._at_end = at_end
        self._owner = os.getpid()
        self._records: list[int] = []  # the pid, 0 if it could not be forked; then the exit code
        self._identity = ""
        self._reading = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The process's id; None if there is no process yet, or never was one."""
        self._look()
        return (self._records[0] or None) if self._records else None

    @property
    def told(self) -> bool:
        """Whether anything was read so far."""
        return bool(self._records)

    @property
    def pipe(self) -> int | None:
        """The descriptor that becomes readable when there is more to be known; None at the end."""
        return self._pipe

    def lives(self) -> bool:
        """Tell whether there is a process, whatever was told of its end."""
        pid = self.pid
        return pid is not None and _held.lives(pid, self._identity)

    def wait(self, deadline: Deadline) -> int | None:
        """Wait until the process has ended; return its exit code, None if that is not known."""
        while True:
            pipe = self._look()
            if pipe is None or self._owner != os.getpid():
                return self._records[1] if len(self._records) == 2 else None
            left = deadline.remaining()
            # Another thread may close it just here, and its number may go to somebody else.
            news = readable(pipe, Deadline(_SLICE if left is None else min(left, _SLICE)))
            if not news and deadline.expired():
                return None

    def close(self) -> None:
        """Read no more. Idempotent."""
        with self._reading:
            self._close()

    def _close(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def _look(self) -> int | None:
        """Take in what was told, without waiting; return the pipe that tells more, if it does."""
        if self._owner != os.getpid():
            return self._pipe  # a fork must not read what is for its parent
        with self._reading:
            if self._pipe is None or not readable(self._pipe, Deadline(0)):
                return self._pipe
            data = os.read(self._pipe, 2 * STATUS.size)
            self._records.extend(record for (record,) in STATUS.iter_unpack(data))
            if not data:
                # Without a word: the forkserver was killed, and took its tasks along.
                self._records = [*(self._records or [0]), -signal.SIGKILL]
            elif self._records[0] and not self._identity:
                self._identity = _held.identity(self._records[0])
            if len(self._records) == 2:
                self._close()
                if data:
                    self._at_end()
            return self._pipe
