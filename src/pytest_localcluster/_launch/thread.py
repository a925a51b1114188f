"""Tasks as threads of the test process: the fastest start, and breakpoints work.

A thread has no pid, environment, working directory or output of its own and cannot be killed or
suspended; what needs these is refused. ``current_task()`` knows the task all the same.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import traceback
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from .. import _context, _held
from .._clock import Thread
from .._core import coroutines
from .._core.logging import mark
from .._logs import logging_to
from ..errors import StopError, UnsupportedError
from . import reports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._clock import Deadline
    from .._logs import TaskLog
    from .._spec import Task
    from ..errors import StartTimeout
    from . import Entry, Serving

__all__ = ["ThreadLauncher", "launcher"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both


class _Marking:
    """Marks the log records of threads that are tasks, as long as there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks = 0
        self._before = self._factory = logging.getLogRecordFactory()

    def begin(self) -> None:
        with self._lock:
            self._tasks += 1
            if self._tasks == 1:
                # A new one each time: a factory of the user's may call the last one.
                self._before = logging.getLogRecordFactory()
                self._factory = _marking_factory(self._before)
                logging.setLogRecordFactory(self._factory)

    def end(self) -> None:
        with self._lock:
            self._tasks -= 1
            # A factory that was set meanwhile stays, and may call ours.
            if not self._tasks and logging.getLogRecordFactory() is self._factory:
                logging.setLogRecordFactory(self._before)


def _marking_factory(before: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        context = _context.here()
        if context is not None:
            mark(record, str(context.task))
        return record

    return make


_marking = _Marking()


class ThreadLauncher:
    """Starts tasks as threads; it holds nothing itself."""

    def prepare(self) -> None:
        """There is nothing to start ahead."""

    def launch(self, entry: Entry, log: TaskLog) -> _ThreadProcess:
        """Start a thread; the task comes up in it while this one goes on."""
        return _ThreadProcess(entry, log)

    def fork_ahead(self, tasks: int) -> None:
        """There is nothing to fork."""

    def close(self) -> None:
        """There is nothing to end."""


_LAUNCHER = ThreadLauncher()


def launcher(preload: tuple[str, ...], boot_env: Mapping[str, str], run: str) -> ThreadLauncher:
    """Return the launcher; where everything is imported once anyway it needs to know nothing."""
    return _LAUNCHER


class _ThreadProcess:
    """One task in a thread of its own, which runs the functions that it is sent."""

    elsewhere = False

    def __init__(self, entry: Entry, log: TaskLog) -> None:
        self.pid = os.getpid()
        self.program = ""
        self._context = entry.context
        self._log = log
        self._serving: Serving | None = None
        self._started = threading.Event()
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._leaving = False
        self._stopping: threading.Thread | None = None
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._calls: set[Future[Any]] = set()
        self._owner = _held.owner()
        self._thread = Thread(
            target=self._run, args=(entry.serve,), name=str(entry.context.task), daemon=True
        )
        self._thread.start()
        _held.hold_thread(self._thread, f"the thread of {entry.context.task}")

    def _run(self, serve: Callable[[], Serving]) -> None:
        _marking.begin()
        try:
            self._live(serve)
        finally:
            _marking.end()

    def _live(self, serve: Callable[[], Serving]) -> None:
        with (
            _context.running_as(self._context),
            logging_to(self._log),
            _held.owned_by(self._owner),
        ):
            try:
                self._serving = serve()
            except BaseException as error:
                self._failure = error
                self._log.write("".join(traceback.format_exception(error)))
                self._ended.set()
                return
            finally:
                self._started.set()
            while (work := self._work.get()) is not None:
                work()
            self._leaving = True
        self._stop_serving()
        self._ended.set()

    def _stop_serving(self) -> None:
        assert self._serving is not None
        try:
            self._serving.stop()
        except BaseException as error:
            self._failure = error

    @property
    def exitcode(self) -> int | None:
        if not self._ended.is_set():
            return None
        return 0 if self._failure is None else 1

    def wait(self, deadline: Deadline) -> int | None:
        self._ended.wait(deadline.remaining())
        return self.exitcode

    def news(self) -> list[int]:
        return []

    def await_start(self, seconds: float | None) -> None:
        self._started.wait(seconds)

    def come_up(self) -> bool:
        if not self._started.is_set():
            return False
        if self._serving is None:
            what = f"{type(self._failure).__name__}: {self._failure}"
            raise reports.start_failed(self._context, self._log, self.pid, what) from self._failure
        return True

    def late(self, deadline: Deadline) -> StartTimeout:
        last = self._log.tail(1).rstrip()
        stack = _held.stack_of(self._thread.ident)
        return reports.start_timeout(self._context, self.pid, deadline.seconds or 0.0, last, stack)

    def signal(self, signal: int) -> None:
        raise UnsupportedError(
            f"{self._context.task} is a thread of the test process, which no signal reaches alone",
            task=str(self._context.task),
            remedy="use launcher='process' to kill, suspend and resume tasks",
        )

    @property
    def busy(self) -> bool:
        return bool(self._calls)

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        if self._ended.is_set():
            future.set_exception(reports.exited(self._context, self._log, self.pid, self.exitcode))
            return future

        def work() -> None:
            try:
                result = coroutines.call(function, args, kwargs)
            except BaseException as error:
                self._calls.discard(future)
                future.set_exception(error)
            else:
                self._calls.discard(future)
                future.set_result(result)

        self._calls.add(future)
        self._work.put(work)
        return future

    def reset(self) -> Future[None]:
        return self._attend(lambda serving: serving.reset())

    def forget(self, task: Task) -> Future[None]:
        return self._attend(lambda serving: serving.forget(task))

    def attend(self) -> Future[None]:
        future: Future[None] = Future()
        future.set_result(None)  # its warnings and records are this process's own
        return future

    def _attend(self, action: Callable[[Serving], None]) -> Future[None]:
        future: Future[None] = Future()
        assert self._serving is not None
        serving = self._serving

        def attend() -> None:
            try:
                action(serving)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        # Not here: what it does may hang, and whoever asks has a deadline.
        name = f"requests of {self._context.task}"
        attendant = Thread(target=attend, name=name, daemon=True)
        attendant.start()
        _held.hold_thread(attendant, owner=self._owner)
        return future

    def ask_to_stop(self) -> None:
        self._work.put(None)

    def out_of_memory(self) -> str:
        return ""  # that would have taken the test process

    def force(self) -> None:
        """Free its address at least: its thread is in a function that does not end."""
        if self._serving is None or self._leaving or self._ended.wait(0.05):
            return
        if self._stopping is None:
            self._stopping = Thread(
                target=self._stop_serving, name=f"end of {self._context.task}", daemon=True
            )
            self._stopping.start()
            _held.hold_thread(self._stopping, owner=self._owner)

    def leave(self) -> None:
        """Do nothing: no thread outlives its process."""

    def close(self, deadline: Deadline) -> None:
        if not self._ended.is_set():
            self._work.put(None)
            if self._serving is None:
                raise self._survivor("its start does not end")
            self.force()
            if self._stopping is not None:
                self._stopping.join(deadline.remaining())
                raise self._survivor("a function given to run() or submit() does not end")
            if not self._ended.wait(deadline.remaining()):
                raise self._survivor("its server does not end")
        self._thread.join(deadline.remaining())
        if isinstance(self._failure, StopError):
            failure, self._failure = self._failure, None
            raise failure

    def _survivor(self, why: str) -> StopError:
        return StopError(
            f"{self._context.task} would not stop: {why}, and a thread cannot be killed",
            task=str(self._context.task),
            survivors=(str(self._context.task),),
            evidence=_held.stack_of(self._thread.ident),
            remedy="mend what does not end, or use launcher='process', where it is killed",
        )
