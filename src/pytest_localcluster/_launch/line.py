"""The test process's end of a task's control socket: sending never waits, receiving has a deadline.

A task that is suspended, or holds the interpreter's lock, reads nothing, and a socket takes only so
much. What does not fit is sent by a thread, so that whoever asks something of a task can go on to
wait for the answer, with a deadline of its own.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from .._clock import Thread
from .wire import pack, readable, receive

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._clock import Deadline

__all__ = ["Line"]

_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)


class Line:
    """One control socket; any number of threads may send, one receives.

    Args:
        sock: the socket, which is closed with the line.
        name: whose it is, for the names of threads.
        told: called with each thread that is started for it.
    """

    def __init__(
        self, sock: socket.socket, name: str, told: Callable[[threading.Thread], object]
    ) -> None:
        self._socket = sock
        self._name = name
        self._told = told
        self._lock = threading.Lock()
        self._unsent: deque[memoryview] = deque()
        self._writer: threading.Thread | None = None

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    @property
    def clogged(self) -> bool:
        """Whether the task has not yet taken all that was sent."""
        return bool(self._unsent)

    def readable(self, deadline: Deadline) -> bool:
        """Wait until there is something to receive, or the end of it."""
        return readable(self._socket.fileno(), deadline)

    def receive(self, deadline: Deadline | None = None) -> Any:
        """Return the next message.

        Raises:
            EOFError: the other end is gone.
            TimeoutError: the message was not all there by the deadline.
        """
        return receive(self._socket, deadline)

    def send(self, *message: object) -> None:
        """Send a message, or leave what the socket does not take now to a thread.

        Raises:
            OSError: the other end is gone.
        """
        data = memoryview(pack(message))
        with self._lock:
            if self._writer is None:
                data = data[self._push(data) :]
            if not data:
                return
            self._unsent.append(data)
            if self._writer is None:
                self._writer = Thread(
                    target=self._write, name=f"requests to {self._name}", daemon=True
                )
                self._writer.start()
                self._told(self._writer)

    def _push(self, data: memoryview) -> int:
        """Send what the socket takes at once; return how much that was."""
        sent = 0
        while sent < len(data):
            try:
                sent += self._socket.send(data[sent:], _AT_ONCE)
            except BlockingIOError:
                break
        return sent

    def _write(self) -> None:
        while True:
            with self._lock:
                if not self._unsent:
                    self._writer = None
                    return
                data = self._unsent[0]
            try:
                self._socket.sendall(data)
            except OSError:  # whoever waits for an answer hears of it from who listens
                with self._lock:
                    self._unsent.clear()
                    self._writer = None
                return
            with self._lock:
                self._unsent.popleft()

    def hang_up(self) -> None:
        """Wake whoever sends or receives; there is nothing more to be said. Idempotent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def leave(self) -> None:
        """Give back this process's end alone: another one has the socket too."""
        self._socket.close()

    def close(self, deadline: Deadline) -> None:
        """Give the socket back. Idempotent."""
        self.hang_up()
        writer = self._writer
        if writer is not None and writer is not threading.current_thread():
            writer.join(deadline.remaining())
        self._socket.close()
