"""Runs in a Ray actor: what one task says, prints and comes to, gathered until it is fetched."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from typing import Any

from ..._clock import Thread
from .. import oom
from ..wire import STATUS

__all__ = ["CONTROL", "ENDED", "HANGUP", "OUTPUT", "TOLD", "Part", "Relay"]

OUTPUT, CONTROL, HANGUP, TOLD, ENDED = "output", "control", "hangup", "told", "ended"
"""What the parts that are passed on hold: what was printed, what was said, nothing, a pid, how the
task ended together with what tells of a want of memory."""

Part = tuple[str, Any]

_PATIENCE = 10.0
"""Seconds that a request for news waits for some."""

_MOST = 16 << 20
"""Bytes that wait to be fetched, at most; then the task waits."""

_CHUNK = 1 << 20


class Relay:
    """Gathers what one task says, prints and comes to, until it is fetched.

    Args:
        control: the task's control socket.
        status: its status pipe.
        output: what it prints to.
    """

    def __init__(self, control: socket.socket, status: int, output: int) -> None:
        self._control = control
        self._status = status
        self._output = output
        self._oom = oom.counts()
        self._told = False
        self._sent = 0
        self._parts: list[Part] = []
        self._first = 0  # the number of the first of these
        self._size = 0
        self._changed = threading.Condition()
        for descriptor in (output, status):
            os.set_blocking(descriptor, False)
        Thread(target=self._run, name="news of the task", daemon=True).start()

    def send(self, index: int, data: bytes) -> None:
        """Send the task what it is told, unless it was there before; wait until it takes it."""
        if index < self._sent:
            return
        self._sent = index + 1
        with contextlib.suppress(OSError):  # it is dead, and that is told elsewhere
            self._control.sendall(data)

    def hang_up(self) -> None:
        """Be for the task as if the test process were gone."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def news(self, seen: int) -> list[Part]:
        """Return what there is after the first ``seen`` parts; wait a while if there is nothing."""
        with self._changed:
            fetched = max(0, seen - self._first)
            self._size -= sum(_size(part) for part in self._parts[:fetched])
            del self._parts[:fetched]
            self._first += fetched
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._parts, _PATIENCE)
            return list(self._parts)

    def _put(self, kind: str, content: Any) -> None:
        with self._changed:
            self._parts.append((kind, content))
            self._size += _size(self._parts[-1])
            self._changed.notify_all()

    def _run(self) -> None:
        poller = select.poll()
        for descriptor in (self._control.fileno(), self._output, self._status):
            poller.register(descriptor, select.POLLIN)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._size < _MOST)
            ready = {descriptor for descriptor, _ in poller.poll()}
            ended = None
            if self._status in ready:
                ended = self._take_status()
            if ended is not None:
                while self._take_said():
                    pass
                self._take_printed()
                self._put(HANGUP, None)
                self._put(ENDED, (ended, oom.risen(self._oom)))
                break
            if self._control.fileno() in ready and self._take_said() is None:
                poller.unregister(self._control)
                self._put(HANGUP, None)
            if self._output in ready and not self._take_printed():
                poller.unregister(self._output)
        self._control.close()
        os.close(self._output)
        os.close(self._status)

    def _take_status(self) -> bytes | None:
        """Pass on who it is; return how it ended, b"" if nobody can tell."""
        data = os.read(self._status, 2 * STATUS.size)
        if data and not self._told:
            self._told = True
            self._put(TOLD, data[: STATUS.size])
            data = data[STATUS.size :]
            return data or None
        return data

    def _take_said(self) -> bool | None:
        """Take what the task has said, and before that what it printed before it did.

        Returns:
            Whether it said anything; None if it never will again.
        """
        try:
            data = self._control.recv(_CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self._take_printed()
        if data:
            self._put(CONTROL, data)
        return bool(data) or None

    def _take_printed(self) -> bool:
        """Take all that is printed up to now; tell whether there may be more.

        One read does it: a pipe holds no more than that.
        """
        try:
            data = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return True
        if data:
            self._put(OUTPUT, data)
        return bool(data)


def _size(part: Part) -> int:
    return len(part[1]) if part[0] in (OUTPUT, CONTROL) else 0
