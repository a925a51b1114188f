"""What a task is asked over its control socket, and the thread that waits for its answers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

from .. import _warned
from .._clock import Thread
from .._core import logging, pickling
from . import reports

if TYPE_CHECKING:
    from .._context import TaskContext
    from ..errors import ServerExited
    from .line import Line

__all__ = ["Calls"]

_MOST = 10_000
"""How many records wait at most for the process that they are relayed to."""


class Calls:
    """The calls of one task that are under way.

    Args:
        line: the control socket.
        context: whose it is.
        exited: returns how the task ended; it may wait a little for that.
        debugs: is given what else comes; tells whether it saw to it.
        ended: called when nothing will come any more.
        hold: is given the thread that listens; it starts when the task serves: until then, what
            comes is for who awaits that.

    Attributes:
        over: done when nothing will come any more.
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
        self._relays = False  # all that comes is for other processes
        self._records: deque[logging.Record] = deque(maxlen=_MOST)  # for these
        self._numbers = count()
        self._name = str(context.task)
        self.over: Future[None] = Future()
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

        With ``relayed`` that is the answer as it came: its kind, what was logged, what was warned,
        and what is pickled, none of it read. The kind of a task that died is ``"ended"``, with the
        error.
        """
        number = next(self._numbers)
        if relayed:
            self._relays = True
            self._relayed.add(number)
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._pending[number] = future
        try:
            self._line.send(kind, number, *rest)
        except OSError:
            if self._pending.pop(number, None) is not None:
                future.set_exception(self._exited())
        return future

    def serves(self) -> None:
        """Begin to listen: the task serves."""
        self._listener = Thread(
            target=self._listen, name=f"results of {self._context.task}", daemon=True
        )
        self._listener.start()
        self._hold(self._listener)

    def unasked(self, kind: str, *rest: Any) -> bool:
        """Take in what a task warned or logged; return False if the message is another one."""
        if kind == "logged" and self._relays:
            self._records.extend(*rest)
        elif kind == "logged":
            logging.receive(self._name, *rest)
        elif kind == "warned":
            _warned.receive(self._name, *rest)
        else:
            return False
        return True

    def end(self, seconds: float) -> None:
        """Wait for the thread that listens, once the socket was hung up; nobody is answered now."""
        if self._listener is None:
            self.give_up()
        elif self._listener is not threading.current_thread():
            self._listener.join(seconds)

    def _listen(self) -> None:
        try:
            self._hear()
        finally:  # whatever ends this thread, nobody waits for it any more
            self._ended()
            self.give_up()

    def _hear(self) -> None:
        while True:
            try:
                kind, number, *rest = self._line.receive()
            except (EOFError, OSError):
                return
            if self.unasked(kind, *rest) or self._debugs(kind, rest):
                continue
            future = self._pending.pop(number, None)
            if future is not None and number in self._relayed:
                self._relayed.discard(number)
                future.set_result((kind, self._take_records(), *rest))
                continue
            _warned.receive(self._name, rest.pop(0))
            if future is None:
                continue  # whoever asked has been told otherwise
            try:
                if kind == "returned":
                    future.set_result(pickling.load_result(rest[0], self._context.task))
                else:
                    future.set_exception(reports.raised(*rest))
            except Exception as unread:  # the result
                future.set_exception(unread)

    def _take_records(self) -> list[logging.Record]:
        records = list(self._records)
        self._records.clear()
        return records

    def give_up(self) -> None:
        """Tell who waits for an answer that the task has ended."""
        while self._pending:
            with suppress(KeyError):
                number, future = self._pending.popitem()
                if number in self._relayed:
                    future.set_result(("ended", self._take_records(), [], self._exited()))
                else:
                    future.set_exception(self._exited())
        with suppress(InvalidStateError):
            self.over.set_result(None)
