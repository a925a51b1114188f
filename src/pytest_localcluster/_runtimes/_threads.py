"""Threads of a task: started when needed, used again, without a limit, not waited for at exit.

A blocked handler (a tensor that is not there yet, an operation that does not end) must not keep
another from running, so there is no limit; and it must not keep the interpreter from ending, which
the standard library's pool would: it joins its threads at exit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from .._clock import Deadline, Thread
from ..errors import UnavailableError

__all__ = ["Threads"]

P = ParamSpec("P")
T = TypeVar("T")

_KEEP = 64  # idle threads; what a burst started beyond that goes away again

_log = logging.getLogger(__name__)


class Threads(Executor):
    """A pool of daemon threads without a limit.

    Args:
        name: what the threads are called, with a number.

    Raises:
        UnavailableError: from each method that takes work, after :meth:`shutdown`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._idle = 0  # threads that wait, or will, and that no piece of work is meant for yet
        self._members: set[threading.Thread] = set()
        self._started = 0
        self._closed = False

    def run(self, function: Callable[..., object], *args: Any) -> None:
        """Call ``function(*args)`` in a thread, at once; nobody waits for what it returns."""

        def work() -> None:
            try:
                function(*args)
            except Exception:
                if self._closed:
                    return  # what it worked on was given up, and who waited for that was told
                _log.exception("%s: an error that nobody waits for", self._name)

        self._put(work)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn`` in a thread, at once; return the future of its result."""
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    result = fn(*args, **kwargs)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)

        self._put(work)
        return future

    def _put(self, work: Callable[[], object]) -> None:
        with self._lock:
            if self._closed:
                raise UnavailableError(f"{self._name} has stopped")
            if self._idle:
                self._idle -= 1
                thread = None
            else:
                self._started += 1
                name = f"{self._name} #{self._started}"
                thread = Thread(target=self._loop, name=name, daemon=True)
                self._members.add(thread)
            self._work.put(work)
        if thread is not None:
            thread.start()

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # it holds arguments, such as arrays, that must not live until the next one
            with self._lock:
                if self._idle >= _KEEP and not self._closed:
                    self._members.discard(threading.current_thread())
                    return
                self._idle += 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; each thread ends after what it is doing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._members:
                    self._work.put(None)
        if wait:
            self.join(Deadline(None))

    def alive(self) -> bool:
        """Tell whether any thread has not ended."""
        return any(thread.is_alive() for thread in list(self._members))

    def join(self, deadline: Deadline) -> bool:
        """Wait for the threads to end after :meth:`shutdown`; tell whether all of them did."""
        for thread in list(self._members):
            if thread is not threading.current_thread():
                thread.join(deadline.remaining())
        return not self.alive()
