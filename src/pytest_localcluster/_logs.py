"""TaskLog: one file per task, for what it prints; and showing such files as they grow."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ._clock import Deadline, Thread, poll
from ._held import hold_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = ["Follower", "TaskLog", "current_log", "follow", "logging_to", "new_folder", "settle"]

_KEPT = 1 << 20
"""How many bytes of a removed log stay readable."""


class TaskLog:
    """What one task prints, in a file of its own that only its owner can read.

    Attributes:
        path: the file.
        kept: whether it stays when the cluster ends; otherwise its folder goes with it.

    A mark is a byte offset; :meth:`since` gives what came after it. The text stays readable
    (its last MiB) when the file is gone.
    """

    def __init__(self, path: Path, *, kept: bool = True) -> None:
        self.path = path
        self.kept = kept
        self.begun: int = 0  # the mark of when its task was last started
        self.origin = 0  # the mark of what is the first of this cluster's
        self._remains: tuple[int, bytes] | None = None
        os.close(self.open())

    def open(self) -> int:
        """Return a new descriptor that appends to the file; the caller closes it."""
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, text: str) -> None:
        """Append a line of our own."""
        fd = self.open()
        try:
            os.write(fd, text.encode(errors="backslashreplace"))
        finally:
            os.close(fd)

    def text(self) -> str:
        """Return everything printed so far."""
        return self.since(0)

    def begin(self) -> None:
        """Remember that the task is started now."""
        self.begun = self.mark()

    def tail(self, lines: int = 20, since: int = 0) -> str:
        """Return the last ``lines`` lines of what was printed after the mark ``since``."""
        start = max(since, self.mark() - 4096 * max(1, lines))
        return "".join(self.since(start).splitlines(keepends=True)[-lines:]) if lines > 0 else ""

    def mark(self) -> int:
        """Return the offset of the end, in bytes; 0 if somebody has deleted the file."""
        if self._remains is not None:
            return self._remains[0] + len(self._remains[1])
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def since(self, mark: int) -> str:
        """Return what was printed after ``mark``; bytes that are not UTF-8 are shown as U+FFFD."""
        return self._read(mark).decode(errors="replace")

    def _read(self, mark: int) -> bytes:
        if self._remains is not None:
            start, content = self._remains
            return content[max(0, mark - start) :]
        try:
            with self.path.open("rb") as file:
                file.seek(mark)
                return file.read()
        except FileNotFoundError:
            return b""

    def remove(self) -> None:
        """Delete the file; its last part stays readable here. Idempotent."""
        if self._remains is None:
            start = max(0, self.mark() - _KEPT)
            self._remains = (start, self._read(start))
            self.path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete the file, unless it is to stay after all."""
        if not self.kept:
            self.remove()

    def __repr__(self) -> str:
        return f"<TaskLog {self.path}: {self.mark()} bytes>"


def new_folder(base: Path, name: str) -> Path:
    """Make and return a new folder for logs, with a number behind its name if there is one."""
    for number in itertools.count(1):
        folder = base / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    return folder


_current: ContextVar[TaskLog | None] = ContextVar("pytest_localcluster_log", default=None)


def current_log() -> TaskLog | None:
    """Return the log of the task that runs in this thread; None where stderr is the log."""
    return _current.get()


@contextlib.contextmanager
def logging_to(log: TaskLog) -> Iterator[None]:
    """Make ``log`` the one of the task that runs in this thread, for a while."""
    previous = _current.set(log)
    try:
        yield
    finally:
        _current.reset(previous)


class Follower:
    """A thread that shows logs as they grow, each line behind its task's name."""

    def __init__(self, logs: Iterable[tuple[str, TaskLog]], write: Callable[[str], object]) -> None:
        self._logs = [(prefix, log, [log.mark()], [""]) for prefix, log in logs]
        self._write = write
        self._closing = threading.Event()
        self._showing = threading.Lock()
        self._paused = False
        self._thread = Thread(target=self._run, name="pytest-localcluster-logs", daemon=True)
        self._thread.start()
        hold_thread(self._thread)

    def _run(self) -> None:
        while not self._closing.wait(0.05):  # files send no event when they grow
            with self._showing:
                if not self._paused:
                    self._show()

    def _show(self, last: bool = False) -> None:
        for prefix, log, mark, rest in self._logs:
            with contextlib.suppress(FileNotFoundError):
                text = log.since(mark[0])
                mark[0] += len(text.encode())
                *lines, rest[0] = (rest[0] + text).split("\n")
                if last and rest[0]:
                    lines.append(rest[0])
                for line in lines:
                    self._write(f"{prefix} {line}\n")

    def pause(self) -> None:
        """Show what was printed until now, and then nothing."""
        with self._showing:
            if not self._paused:
                self._show()
            self._paused = True

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._paused = False

    def close(self) -> None:
        """Show what is left and end. Idempotent."""
        if not self._closing.is_set():
            self._closing.set()
            self._thread.join(5.0)  # longer only if whoever reads our output has stopped reading
            self._show(last=True)


def follow(logs: Iterable[tuple[str, TaskLog]], write: Callable[[str], object]) -> Follower:
    """Pass what is printed to ``logs`` from now on to ``write``, line by line, until closed."""
    return Follower(logs, write)


def settle(
    size: Callable[[], int], since: Callable[[int], str], mark: int, deadline: Deadline
) -> str:
    """Return what a file has after ``mark`` once something has come and no more does."""
    seen = -1

    def quiet() -> bool:
        nonlocal seen
        before, seen = seen, size()
        return seen > mark and seen == before

    poll(quiet, deadline, interval=0.01)
    return since(mark)
