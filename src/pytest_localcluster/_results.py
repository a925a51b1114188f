"""Futures for calls that run in tasks."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from . import _warned
from ._terminal import in_use, until_free
from .errors import ClusterError, ServerExited, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._clock import Deadline
    from ._spec import Task

__all__ = ["Result", "failure", "gather"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

T = TypeVar("T")


class _Server(Protocol):
    """What a report says of a server."""

    task: Task

    @property
    def address(self) -> str:
        """Where it serves."""

    @property
    def pid(self) -> int | None:
        """Its process."""

    def is_suspended(self) -> bool:
        """Tell whether it does nothing until it is resumed."""

    def unfinished(self, timeout: float | None) -> TimeoutError:
        """Return the error for a function that did not end in time."""


class _Life(Protocol):
    """The part of a task's life that its calls affect."""

    def forgive(self, pid: int | None = None) -> None:
        """Let the death of a process count as no surprise: the present one if ``pid`` is None."""

    def forgive_during(self, call: Future[Any]) -> None:
        """Let its death count as no surprise if it happens during this call."""


S = TypeVar("S", bound=_Server)


class Result(Future[T]):
    """The result of a submitted function. Its death is forgiven to a task whose caller sees it.

    Args:
        source: the launcher's future of the result.
        life: the life of the task.
        note: is added to an exception, where it would not be clear which task raised it; else "".
    """

    def __init__(self, source: Future[T], life: _Life, note: str = "") -> None:
        super().__init__()
        self._life = life
        self._note = note
        self.set_running_or_notify_cancel()
        source.add_done_callback(self._take)

    def forgive(self) -> None:
        """Forgive a death during this call: another task of the same call has died, too."""
        self._life.forgive_during(self)

    def _take(self, source: Future[T]) -> None:
        error = source.exception()
        if error is not None:
            self.set_exception(_with_note(error, self._note))
        else:
            self.set_result(source.result())

    def result(self, timeout: float | None = None) -> T:
        """Return the result, or raise what the function raised."""
        try:
            return super().result(timeout)
        except ServerExited as error:
            self._life.forgive(error.pid)
            raise
        finally:
            _warned.deliver()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the function raised, None if it returned."""
        try:
            error = super().exception(timeout)
        finally:
            _warned.deliver()
        if isinstance(error, ServerExited):
            self._life.forgive(error.pid)
        return error


def _with_note(error: BaseException, note: str) -> BaseException:
    if note:
        with suppress(Exception):  # it refuses attributes, or has a __getattr__ that raises
            # An error of ours names its task; one exception may be raised by several tasks.
            known = getattr(error, "__notes__", ())
            if getattr(error, "task", None) is None and note not in known:
                error.add_note(note)
    return error


def failure(futures: Mapping[S, Future[None]], deadline: Deadline) -> ClusterError | None:
    """Wait for one future per server; return the first failure, None if there is none."""
    for server, future in futures.items():
        try:
            future.result(deadline.remaining())
        except ClusterError as error:
            return error
        except FutureTimeout:
            return ClusterError(
                f"{server.task} did not answer within {deadline.seconds} s",
                task=str(server.task),
                address=server.address,
                pid=server.pid,
                remedy="read its log; restart() it",
            )
    return None


_LOOK = 15.0
"""Seconds between looks at whom a call without a timeout waits for."""


def _wait(futures: Mapping[S, Future[T]], timeout: float | None) -> None:
    """Wait for all, for a failure, or for ``timeout``; without one, not for suspended tasks."""
    if not futures:
        return
    # Not concurrent.futures.wait(): it calls exception() of each Result, which shows the warnings
    # that have arrived before those of the other tasks have.
    pending = set(futures.values())
    settled = threading.Event()

    def settle(future: Future[T]) -> None:
        pending.discard(future)
        if not pending or Future.exception(future) is not None:
            settled.set()

    for future in futures.values():
        future.add_done_callback(settle)
    suspended: set[S] = set()
    while True:
        if settled.wait(_LOOK if timeout is None else timeout):
            return
        if in_use():
            until_free()
            continue
        if timeout is not None:
            return
        # A function may take as long as it likes; but not while nothing can run.
        now = {s for s, future in futures.items() if future in pending and s.is_suspended()}
        for server in now & suspended:
            raise server.unfinished(None)
        suspended = now


def gather(futures: Mapping[S, Future[T]], timeout: float | None) -> list[T]:
    """Return what all servers return; raise the first failure at once, whichever it comes from."""
    number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if timeout is not None and not (number and timeout >= 0):
        raise SpecError(f"timeout={timeout!r} is no time to wait", remedy="use seconds, or None")
    try:
        _wait(futures, timeout)
    finally:
        _warned.deliver()
    for future in futures.values():
        error = future.exception() if future.done() else None
        if error is not None:
            if isinstance(error, ServerExited):
                for other in futures.values():
                    if isinstance(other, Result):
                        other.forgive()
            raise error
    for server, future in futures.items():
        if not future.done():
            raise server.unfinished(timeout)
    return [future.result() for future in futures.values()]
