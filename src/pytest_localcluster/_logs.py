"""TaskLog: one file per task, for what it prints; and showing such files as they grow."""

from __future__ import annotations

import codecs
import contextlib
import itertools
import os
import shutil
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ._clock import Deadline, Thread, poll
from ._held import hold_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = [
    "Follower",
    "TaskLog",
    "current_log",
    "empty_folder",
    "follow",
    "logging_to",
    "new_folder",
    "settle",
]

_KEPT = 1 << 20
"""How many bytes of a removed log stay readable."""

_PIECE = 1 << 16
"""How many bytes of a log are read, and shown, at a time."""

_LONGEST_LINE = 1 << 16
"""Characters after which a line is shown as it is, and continued on the next one."""

_STALLED = 5.0
"""Seconds without progress after which a follower that is closed gives up."""


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
        return self.read(mark)[1].decode(errors="replace")

    def read(self, mark: int, size: int = -1) -> tuple[int, bytes]:
        """Return bytes printed after ``mark``, at most ``size`` of them unless that is negative.

        Returns:
            The offset of the first byte, larger than ``mark`` if what came before it is gone; and
            the bytes.
        """
        if self._remains is not None:
            start, content = self._remains
            first = max(0, mark - start)
            return max(mark, start), content[first : first + size if size >= 0 else None]
        try:
            with self.path.open("rb") as file:
                file.seek(mark)
                return mark, file.read(size)
        except FileNotFoundError:
            return mark, b""

    def remove(self) -> None:
        """Delete the file; its last part stays readable here. Idempotent."""
        if self._remains is None:
            start = max(0, self.mark() - _KEPT)
            self._remains = self.read(start)
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


def empty_folder(folder: Path) -> None:
    """Remove what is in a folder, as far as that can be removed."""
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


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


class _Shown:
    """How far one log was shown.

    Args:
        prefix: stands before each of its lines.
        log: the log; what it holds already is not shown.
    """

    def __init__(self, prefix: str, log: TaskLog) -> None:
        self.prefix = prefix
        self.log = log
        self.mark = log.mark()
        self._rest = ""
        self._begin()

    def _begin(self) -> None:
        # A character may be split over two pieces.
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def show(self, end: int, write: Callable[[str], object]) -> bool:
        """Show one piece of what was printed before ``end``; return False if there was none."""
        if end < self.mark:  # somebody has emptied the file
            self.mark = 0
            self._begin()
        start, data = self.log.read(self.mark, min(_PIECE, end - self.mark))
        if start > self.mark:
            self._left_out(start - self.mark, "the log was removed before they were shown", write)
        self.mark = start + len(data)
        *lines, self._rest = (self._rest + self._decode(data)).split("\n")
        while len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest[:_LONGEST_LINE])
            self._rest = self._rest[_LONGEST_LINE:]
        self._write(lines, write)
        return bool(data)

    def close(self, end: int, write: Callable[[str], object]) -> None:
        """Show a last line that has no end, and report what was not shown before ``end``."""
        self._rest += self._decode(b"", final=True)
        if self._rest:
            self._write([self._rest], write)
        if end > self.mark:
            why = f"nothing could be written for {_STALLED:g} s after the end"
            self._left_out(end - self.mark, why, write)

    def _left_out(self, count: int, why: str, write: Callable[[str], object]) -> None:
        self._write([f"({count} bytes left out: {why})"], write)

    def _write(self, lines: list[str], write: Callable[[str], object]) -> None:
        if lines:
            write("".join(f"{self.prefix} {line}\n" for line in lines))


class Follower:
    """A thread that shows logs as they grow, each line behind its task's name.

    Bytes that are left out, if any, are counted in a line of their own.
    """

    def __init__(self, logs: Iterable[tuple[str, TaskLog]], write: Callable[[str], object]) -> None:
        self._logs = [_Shown(prefix, log) for prefix, log in logs]
        self._write = write
        self._closing = threading.Event()
        self._showing = threading.Lock()
        self._paused = False
        self._stalled = False
        self._thread = Thread(target=self._run, name="pytest-localcluster-logs", daemon=True)
        self._thread.start()
        hold_thread(self._thread)

    def _run(self) -> None:
        while not self._closing.wait(0.05):  # files send no event when they grow
            with self._showing:
                if not self._paused:
                    self._show()
        with self._showing:
            for shown, end in self._show():
                shown.close(end, self._write)

    def _show(self) -> list[tuple[_Shown, int]]:
        """Show what was printed until now; return each log and where it ended."""
        ends = [(shown, shown.log.mark()) for shown in self._logs]
        behind = ends
        while behind and not self._stalled:
            behind = [(shown, end) for shown, end in behind if shown.show(end, self._write)]
        return ends

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
        """Show what is left and end, unless nothing more can be written. Idempotent."""
        self._closing.set()
        while self._thread.is_alive() and not self._stalled:
            before = self._progress()
            self._thread.join(_STALLED)
            self._stalled = self._thread.is_alive() and self._progress() == before

    def _progress(self) -> int:
        return sum(shown.mark for shown in self._logs)


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
