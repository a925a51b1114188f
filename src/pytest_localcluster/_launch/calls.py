"""What a task is asked over its control socket, and the thread that waits for its answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

from .. import _warned
from .._core import pickling, stand_ins
from . import reports

if TYPE_CHECKING:
    from .._context import TaskContext
    from ..errors import ServerExited
    from .line import Line

__all__ = ["Calls"]


class Calls:
    """The calls of one task that are under way.

    Args:
        line: the control socket.
        context: whose it is.
        exited: returns how the task ended; it may wait a little for that.
        debugs: is given what else comes; tells whether it saw to it.
        ended: called when nothing will come any more.
        hold: is given the thread that listens; it starts with the first call, but not before
            the task serves: until then, what comes is for who awaits that.
    """

    def __init__(
        self,
        line: Line,
        context: TaskContext,
        *,
        exited: Callable[[], ServerExited],
        debugs: Callable[[str, list[Any]], bool],
        ended: Callable[[], None],
        hold: Callable[[threading.Thread], None],
    ) -> None:
        self._line = line
        self._context = context
        self._exited = exited
        self._debugs = debugs
        self._ended = ended
        self._hold = hold
        self._pending: dict[int, Future[Any]] = {}
        self._relayed: set[int] = set()  # whose answers are for another process to read
        self._numbers = count()
        self._serves = False
        self._lock = threading.Lock()
        self._listener: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether an answer is due."""
        return bool(self._pending)

    @property
    def listens(self) -> bool:
        """Whether somebody has been listening."""
        return self._listener is not None

    def make(self, kind: str, *rest: object, relayed: bool = False) -> Future[Any]:
        """Ask the task for something; return the future of its answer.

        With ``relayed`` that is the answer as it came: its kind, what was warned, and what is
        pickled, none of it read.
        """
        number = next(self._numbers)
        if relayed:
            self._relayed.add(number)
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._pending[number] = future
        if self._serves:
            self._begin_to_listen()
        try:
            self._line.send(kind, number, *rest)
        except OSError:
            if self._pending.pop(number, None) is not None:
                future.set_exception(self._exited())
        return future

    def serves(self, *, unasked: bool) -> None:
        """Be told that the task serves, and whether it may say something that nobody asked for."""
        self._serves = True
        if unasked or self._pending:  # another thread may have called it while it started
            self._begin_to_listen()
        else:
            stand_ins.await_announcement(self._begin_to_listen)

    def _begin_to_listen(self) -> None:
        stand_ins.cancel_announcement(self._begin_to_listen)
        with self._lock:
            if self._listener is not None:
                return
            self._listener = threading.Thread(
                target=self._listen, name=f"results of {self._context.task}", daemon=True
            )
            self._listener.start()
            self._hold(self._listener)

    def end(self, seconds: float) -> None:
        """Wait for the thread that listens, once the socket was hung up; nobody is answered now."""
        stand_ins.cancel_announcement(self._begin_to_listen)
        if self._listener is None:
            self.give_up()
        elif self._listener is not threading.current_thread():
            self._listener.join(seconds)

    def leave(self) -> None:
        """Begin to listen no more: the task is for another process to hear."""
        stand_ins.cancel_announcement(self._begin_to_listen)

    def _listen(self) -> None:
        while True:
            try:
                kind, number, *rest = self._line.receive()
            except (EOFError, OSError):
                break
            if self._debugs(kind, rest):
                continue
            future = None if kind == "warned" else self._pending.pop(number, None)
            if future is not None and number in self._relayed:
                self._relayed.discard(number)
                future.set_result((kind, *rest))
                continue
            _warned.receive(str(self._context.task), rest.pop(0))
            if future is None:
                continue  # whoever asked has been told otherwise
            try:
                if kind == "returned":
                    future.set_result(pickling.loads(rest[0]))
                else:
                    future.set_exception(reports.raised(self._context, *rest))
            except Exception as error:  # the result would not be read
                future.set_exception(error)
        self._ended()
        self.give_up()

    def give_up(self) -> None:
        """Tell who waits for an answer that the task has ended."""
        while self._pending:
            with suppress(KeyError):
                _, future = self._pending.popitem()
                future.set_exception(self._exited())
