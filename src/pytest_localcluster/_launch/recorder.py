"""Runs in a task: sends the records of its loggers, and keeps its warnings for the next answer."""

from __future__ import annotations

import logging as loggers
import os
import socket
import threading
import warnings
from collections import deque
from typing import TextIO

from pytest_localcluster import _warned
from pytest_localcluster._clock import Deadline, now
from pytest_localcluster._core import logging, settings
from pytest_localcluster._launch.wire import pack, writable

__all__ = ["Outgoing", "Recorder"]

_MOST = 1000
"""How many warnings are kept at most; what nobody fetches is printed from there on."""

_BURST, _RATE = 5000, 1000.0
"""How many records are sent at once, and how many more a second: of warnings and worse as many as
of all others."""

_PATIENCE = 5.0
"""Seconds that a record waits for a test process that takes nothing, which only one that is
suspended does; the next ones do not wait then."""

_print = warnings.showwarning
_call_handlers = loggers.Logger.callHandlers


class Outgoing:
    """Sends whole messages over a task's control socket, from any thread.

    What a destructor or a signal handler sends while its thread is about to send something else
    follows that.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.RLock()
        self._senders: set[int] = set()  # the threads that send, or wait for that
        self._waiting: deque[bytes] = deque()
        self._rest = b""  # of a message that was begun
        self._stuck = False

    def send(self, *message: object) -> None:
        """Send a message, however long that takes."""
        self._do(pack(message), None)

    def post(self, *message: object, seconds: float = _PATIENCE) -> bool:
        """Send a message; return False if the other end took nothing of it for so long.

        What was sent is not lost with this process.
        """
        return self._do(pack(message), 0 if self._stuck else seconds)

    def _do(self, data: bytes, seconds: float | None) -> bool:
        me = threading.get_ident()
        if me in self._senders:  # within a message that is being sent
            self._waiting.append(data)
            return True
        try:
            self._senders.add(me)
            sent = self._do_alone(data, seconds)
            # What was added since the lock was given back; who has the lock now sends it, too.
            while (left := len(self._waiting)) and self._do_alone(b"", 0):
                if len(self._waiting) >= left:
                    break
        finally:
            self._senders.discard(me)
        return sent

    def _do_alone(self, data: bytes, seconds: float | None) -> bool:
        deadline = Deadline(seconds)
        try:
            if not self._lock.acquire(timeout=-1 if seconds is None else seconds):
                return False
            sent = not data or self._push(data, deadline)
            while self._waiting and self._push(self._waiting[0], deadline):
                self._waiting.popleft()
        finally:
            # A signal's handler may raise at any point, also between acquire() and here.
            if self._lock._is_owned():  # type: ignore[attr-defined]  # as Condition asks it
                self._lock.release()
        return sent

    def _push(self, data: bytes, deadline: Deadline) -> bool:
        view = memoryview(self._rest + data)
        try:
            while view:
                try:
                    view = view[self._socket.send(view, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    if not writable(self._socket.fileno(), deadline):
                        break
        finally:  # also if a signal's handler raises
            begun = len(view) < len(data)
            self._rest = bytes(view if begun else view[: len(view) - len(data)])
            self._stuck = bool(view)
        return begun


class _Bucket:
    """Lets so many through at once, and then so many a second."""

    def __init__(self) -> None:
        self._left, self._since = float(_BURST), now()

    def take(self) -> bool:
        moment = now()
        self._left = min(_BURST, self._left + (moment - self._since) * _RATE)
        self._since = moment
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Recorder:
    """Takes the place of what shows warnings, and of what calls the handlers of loggers.

    Showing a warning takes no lock, since the garbage collector may have something warned at any
    point.

    Args:
        outgoing: where records are sent.
    """

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._kept: deque[tuple[Warning | str, type[Warning], str, int]] = deque()
        self._pid = os.getpid()
        self._buckets = _Bucket(), _Bucket()
        self._left_out = 0

    def begin(self, news: settings.News | None) -> None:
        """Go by the test's settings from now on."""
        settings.apply(news)
        warnings.showwarning = self.show

        def call_handlers(logger: loggers.Logger, record: loggers.LogRecord) -> None:
            self.log(record)
            _call_handlers(logger, record)

        # Not a handler: the root logger stays without one, as basicConfig() needs it, and what
        # does not propagate to it is seen as well.
        loggers.Logger.callHandlers = call_handlers  # type: ignore[method-assign, assignment]

    def log(self, record: loggers.LogRecord) -> None:
        """Send a record, but not from a fork of this process, which has the same socket."""
        if os.getpid() != self._pid:
            return
        if not self._buckets[record.levelno >= loggers.WARNING].take():
            self._left_out += 1
            return
        if self._left_out:
            self._report_left_out()
        if not self._post(record):
            self._left_out += 1

    def _post(self, record: loggers.LogRecord) -> bool:
        try:
            return self._outgoing.post("logged", 0, [logging.dump(record)])
        except Exception:  # the test process is gone; or no memory, say
            return False

    def _report_left_out(self) -> None:
        """Send a record that says how many were not sent."""
        count, self._left_out = self._left_out, 0
        text = (
            "%d log records are left out here: a task sends %d at once, %d more a second, and none "
            "while the test process takes none"
        )
        record = loggers.LogRecord(
            "pytest_localcluster", loggers.WARNING, __file__, 0, text, (count, _BURST, _RATE), None
        )
        if not self._post(record):
            self._left_out += count

    def show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Keep it; print it where nobody would fetch it, as from a fork of this process."""
        if file is not None or os.getpid() != self._pid or len(self._kept) >= _MOST:
            _print(message, category, filename, lineno, file, line)
        else:
            self._kept.append((message, category, filename, lineno))

    def take(self) -> list[_warned.Kept]:
        """Return the warnings that were kept, and keep them no more; all records are sent then."""
        if self._left_out:
            self._report_left_out()
        taken = []
        while self._kept:
            taken.append(_warned.keep(*self._kept.popleft()))
        return taken

    def print(self) -> None:
        """Print what is left: nobody fetches it any more."""
        while self._kept:
            _print(*self._kept.popleft())
