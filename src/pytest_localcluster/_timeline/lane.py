"""What is recorded of one task: its lives, what was done to it, what it printed and when."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .._clock import Deadline, now_ns

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .._server import Server

__all__ = ["Call", "Lane", "Life", "Moment"]

_LINES = 2000
"""How many lines of a log are remembered, the last ones."""

_MOMENTS = 4000
_CALLS = 4000
_LONGEST = 400  # characters of a line
_PATIENCE = 1.0  # seconds for word of how a process ended that is gone
_AT_ONCE = 1 << 16  # bytes of a log that are looked at, the last ones


class Moment(NamedTuple):
    """Something that happened to a task: ``what`` at a time ``at``, in nanoseconds."""

    at: int
    what: str
    name: str


@dataclass
class Call:
    """A function that a task was given; ``end`` is None until it has returned or raised."""

    name: str
    begin: int
    end: int | None = None
    error: str = ""

    def done(self, result: Future[object]) -> None:
        """Learn that there is a result."""
        self.end = now_ns()
        if result.cancelled():
            self.error = "cancelled"
        elif (error := result.exception()) is not None:
            self.error = f"{type(error).__name__}: {error}"


@dataclass
class Life:
    """A task from one start to its end.

    Attributes:
        began: when it was launched.
        notes: where it notes what it does, if it does.
        ended: when it was seen to have ended; None if it was not.
        exitcode: what it ended with, if that is known.
    """

    began: int
    notes: Path
    ended: int | None = None
    exitcode: int | None = None

    def over(self) -> None:
        """Learn that its process is gone, just now if that was not known. Idempotent."""
        if self.ended is None:
            self.ended = now_ns()


@dataclass
class Lane:
    """One task of one cluster.

    Attributes:
        server: its handle.
        cluster: the number of its cluster among those of this process.
        lives: of those that the running test has seen.
        left_out: how many lines it printed that were too many, or came too fast.
    """

    server: Server
    cluster: int
    lives: list[Life] = field(default_factory=list)
    moments: deque[Moment] = field(default_factory=lambda: deque(maxlen=_MOMENTS))
    calls: deque[Call] = field(default_factory=lambda: deque(maxlen=_CALLS))
    lines: deque[Moment] = field(default_factory=lambda: deque(maxlen=_LINES))
    left_out: int = 0
    _log: int | None = None
    _read: int = 0
    _rest: bytes = b""

    def happened(self, what: str, name: str) -> None:
        """Remember something that happens just now."""
        self.moments.append(Moment(now_ns(), what, name))

    def launching(self, notes: Path) -> None:
        """Begin another life."""
        self.learn_exitcode()
        self.lives.append(Life(now_ns(), notes))
        self.happened("launch", "")
        self._open_log()

    def learn_exitcode(self) -> None:
        """Ask how the present life has ended, if it has."""
        process = self.server._life.process
        if not self.lives or self.lives[-1].exitcode is not None or process is None:
            return
        life = self.lives[-1]
        life.exitcode = process.wait(Deadline(0 if life.ended is None else _PATIENCE))
        if life.exitcode is not None:
            life.over()

    def begin(self) -> None:
        """Forget what was before the test that begins now, but for the present life."""
        self.learn_exitcode()
        del self.lives[:-1]
        began = self.lives[-1].began if self.lives else 0
        states = ("launch", "ready", "suspend", "resume")
        kept = [m for m in self.moments if m.at >= began and m.what in states]
        self.moments.clear()
        self.moments.extend(kept)
        self.calls = deque((call for call in self.calls if call.end is None), maxlen=_CALLS)
        self.lines.clear()
        self.left_out = 0

    def _open_log(self) -> None:
        if self._log is None:
            with contextlib.suppress(OSError):
                self._log = os.open(self.server.log.path, os.O_RDONLY)
                self._read = os.fstat(self._log).st_size

    def look(self) -> None:
        """Take note of the lines that it has printed since the last look."""
        if self._log is None:
            return
        size = os.fstat(self._log).st_size
        if size == self._read:
            return
        now = now_ns()
        if size < self._read:  # somebody has emptied it
            self._read, self._rest = 0, b""
        skipped = size - self._read - _AT_ONCE
        while skipped > 0:
            piece = os.pread(self._log, min(skipped, _AT_ONCE), self._read)
            self.left_out += piece.count(b"\n")
            self._read, self._rest = self._read + len(piece), b""
            skipped = skipped - len(piece) if piece else 0
        data = os.pread(self._log, size - self._read, self._read)
        self._read += len(data)
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:_AT_ONCE]  # more of a line is never shown
        for line in lines:
            self._print(now, line)

    def _print(self, now: int, line: bytes) -> None:
        self.left_out += len(self.lines) == _LINES
        text = line.decode(errors="replace").rstrip("\r")
        self.lines.append(Moment(now, "log", text[:_LONGEST]))

    def close(self) -> None:
        """Look for the last time, and let go of the log."""
        self.learn_exitcode()
        self.look()
        if self._rest:
            self._print(now_ns(), self._rest)
            self._rest = b""
        log, self._log = self._log, None
        if log is not None:
            os.close(log)
