"""Pids and exit codes of processes that are not our children, read from their parents' pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from .. import _held
from .._clock import Deadline
from .wire import STATUS, readable

if TYPE_CHECKING:
    from collections.abc import Callable

    from .shelter import Guard

__all__ = ["Fate", "Origin", "Unseen", "describe_exit"]

_SLICE = 0.1
"""Seconds between two looks at whether another thread has closed the pipe that is waited for."""


_REAPED = 5.0
"""Seconds for a guard to wait for its forkserver, or to end, when its sockets are closed."""


def describe_exit(code: int | None) -> str:
    """Say how a process ended: ``exited with status 3``, ``was killed by SIGSEGV``."""
    if code is None:
        return "ended, exit status unknown"
    if isinstance(code, Unseen):
        return code.account
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"exited with status {code}"


class Unseen(int):
    """The exit code of a process whose parent ended first: that of SIGKILL, which follows from it.

    Attributes:
        account: how it ended, as far as is known.
        words: what its parent printed last.
    """

    account: str
    words: str

    def __new__(cls, account: str, words: str = "") -> Self:
        self = super().__new__(cls, -signal.SIGKILL)
        self.account, self.words = account, words
        return self

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return self.account, self.words

    def __str__(self) -> str:
        return "unknown"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


class Origin:
    """A forkserver, in which tasks have their origin: how it ended, once it has.

    Args:
        pipe: its guard writes its pid and its exit code there; closed by :meth:`close`.
        guard: its parent.
        said: returns what it printed.
    """

    def __init__(self, pipe: int, guard: Guard, said: Callable[[], str]) -> None:
        self._fate = Fate(pipe, lambda: None, lambda: Unseen(""))
        self._guard = guard
        self._said = said
        self._lock = threading.Lock()
        self._known: Unseen | None = None

    def unseen(self) -> Unseen:
        """Return the end of a task that the forkserver has not told of, since it ended itself."""
        with self._lock:
            if self._known is None:
                self._known = self._look()
            return self._known

    def _look(self) -> Unseen:
        who = "the process that starts the tasks"
        code = self._fate.wait(Deadline(_REAPED))
        if code is None or isinstance(code, Unseen):
            pid, code = self._fate.pid, self._end_of_guard()
            if pid is not None:  # there was one, and it ends with its guard
                who = "the guard of the process that starts the tasks"
        words = self._said()
        return Unseen(f"ended with {who}, which {describe_exit(code)}", words)

    def _end_of_guard(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            code = self._guard.wait(_REAPED)
            if isinstance(self._guard, subprocess.Popen):  # otherwise it is no child of ours
                return code
        return None

    def close(self) -> None:
        """Look for the last time: guard and output are about to be given back."""
        with self._lock:
            if self._known is None:
                self._known = Unseen("was ended with the process that starts the tasks")
        self._fate.close()


class Fate:
    """The pid and the exit code of one process, once they are known.

    Args:
        pipe: the end of the status pipe to read from; it is closed when there is nothing to come.
        at_end: called when the parent has waited for the process.
        unseen: returns the exit code if the parent ends without that.
    """

    def __init__(
        self, pipe: int, at_end: Callable[[], object], unseen: Callable[[], Unseen]
    ) -> None:
        self._unseen = unseen
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
                # The parent has ended, and what it had started ends with it.
                self._records = [*(self._records or [0]), self._unseen()]
            elif self._records[0] and not self._identity:
                self._identity = _held.identity(self._records[0])
            if len(self._records) == 2:
                self._close()
                if data:
                    self._at_end()
            return self._pipe
