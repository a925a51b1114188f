"""The test process's handle of a task that is a process: a control socket and a status pipe."""

from __future__ import annotations

import contextlib
import os
import select
import signal as signals
import socket
import threading
from concurrent.futures import Future
from itertools import count
from typing import TYPE_CHECKING, Any

from .. import _pickling
from .._clock import Deadline
from .._logs import settle
from ..errors import ClusterError, ServerExited, UnsupportedError
from . import reports
from .wire import DUMP_SIGNAL, SIGNAL, STATUS, receive, send

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._logs import TaskLog
    from .._spec import Task
    from . import Entry
    from .process import ProcessLauncher

__all__ = ["ChildProcess"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both


class ChildProcess:
    """One task in a process of its own."""

    def __init__(
        self,
        launcher: ProcessLauncher,
        number: int,
        entry: Entry,
        log: TaskLog,
        control: socket.socket,
        status: int,
    ) -> None:
        self._launcher = launcher
        self._number = number
        self.program = ""
        self._context = entry.context
        self._log = log
        self._control = control
        self._status: int | None = status
        self._ready = False
        self._stuck = False  # the forkserver never came to fork it
        self._records: list[int] = []  # the pid, then the exit code
        self._reading = threading.Lock()
        self._sending = threading.Lock()
        self._calls: dict[int, Future[Any]] = {}
        self._call_numbers = count()
        self._listener: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        self._read_status()
        return (self._records[0] or None) if self._records else None

    @property
    def exitcode(self) -> int | None:
        return self.wait(Deadline(0))

    def wait(self, deadline: Deadline) -> int | None:
        while True:
            self._read_status()
            if self._status is None:
                return self._records[1] if len(self._records) == 2 else None
            if not _readable(self._status, deadline):
                return None

    def _read_status(self) -> None:
        """Take in what the status pipe holds; do not wait."""
        with self._reading:
            if self._status is None or not _readable(self._status, Deadline(0)):
                return
            data = os.read(self._status, 2 * STATUS.size)
            self._records.extend(record for (record,) in STATUS.iter_unpack(data))
            if not data:
                # Without a word: the forkserver was killed, and took its tasks along.
                self._records = [*(self._records or [0]), -signals.SIGKILL]
            if len(self._records) == 2:
                os.close(self._status)
                self._status = None

    def wait_ready(self, deadline: Deadline) -> None:
        if not (self._is_forked(deadline) and _readable(self._control.fileno(), deadline)):
            raise self._start_timeout(deadline)
        try:
            kind, _, *rest = receive(self._control)
            if kind == "program":
                (self.program,) = rest
                kind, _, *rest = receive(self._control)  # how it could not be executed, or the end
        except (EOFError, ConnectionResetError):
            if not self.program:
                code = self.wait(Deadline(1.0))
                died = self._exited(code, " while it started")
                what = f"it {reports.describe_exit(code)}"
                raise reports.start_failed(self._context, self._log, self.pid, what) from died
            kind = "ready"  # as far as this handle can tell: the program has begun
        if kind == "failed":
            self.wait(Deadline(1.0))
            data, text = rest
            cause = _pickling.load_exception(data, text)
            what = text.rstrip().rpartition("\n")[2]
            if cause is not None:
                what = f"{type(cause).__name__}: {cause}".partition("\n")[0]
            raise reports.start_failed(self._context, self._log, self.pid, what) from cause
        self._ready = True

    def _is_forked(self, deadline: Deadline) -> bool:
        """Wait for the pid: on a busy machine a task may serve before the forkserver tells it."""
        self._read_status()
        if self._status is None or self._records:
            return True
        return _readable(self._status, deadline)

    def _start_timeout(self, deadline: Deadline) -> ClusterError:
        pid = self.pid
        if pid is None:  # not even forked: the forkserver is still importing
            last = self._launcher.said().rstrip().rpartition("\n")[2]
            stacks = self._launcher.dump_stacks()
            self._stuck = True
        else:
            last = self._log.tail(1).rstrip()
            mark = self._log.mark()
            self.signal(DUMP_SIGNAL)
            stacks = settle(self._log.mark, self._log.since, mark, Deadline(1.0))
        return reports.start_timeout(
            self._context, pid, deadline.seconds or 0.0, last, reports.with_source(stacks)
        )

    def signal(self, signal: int) -> None:
        request = (self._number, int(signal))
        self._launcher.request(SIGNAL, request, acknowledged=signal == signals.SIGSTOP)

    @property
    def busy(self) -> bool:
        return bool(self._calls)

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[Any]:
        name = getattr(function, "__qualname__", function)
        if self.program:
            raise UnsupportedError(
                f"{self._context.task} cannot run {name}: it is no Python",
                task=str(self._context.task),
                pid=self.pid,
                status=f"its program is: {self.program}",
                remedy="run it in a task of another job: runtime= can be a mapping from job to "
                "runtime, and only jobs of a CommandRuntime are not Python",
            )
        try:
            call = _pickling.dumps((function, args, dict(kwargs)))
        except Exception as error:
            error.add_note(
                f"{name} and its arguments go to {self._context.task} pickled; "
                "make what cannot be in the function"
            )
            raise
        return self._ask("call", call)

    def reset(self) -> Future[None]:
        return self._ask("reset")

    def forget(self, task: Task) -> Future[None]:
        return self._ask("forget", task)

    def _ask(self, kind: str, *rest: object) -> Future[Any]:
        number = next(self._call_numbers)
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._calls[number] = future
        if self._listener is None:
            self._listener = threading.Thread(
                target=self._listen, name=f"results of {self._context.task}", daemon=True
            )
            self._listener.start()
        try:
            self._tell(kind, number, *rest)
        except OSError:
            if self._calls.pop(number, None) is not None:
                future.set_exception(self._exited(self.wait(Deadline(1.0))))
        return future

    def _tell(self, *message: object) -> None:
        with self._sending:
            send(self._control, message)

    def _listen(self) -> None:
        while True:
            try:
                kind, number, *rest = receive(self._control)
            except (EOFError, OSError):
                break
            future = self._calls.pop(number, None)
            if future is None:
                continue  # whoever asked has been told otherwise
            try:
                if kind == "returned":
                    future.set_result(_pickling.loads(rest[0]))
                else:
                    future.set_exception(self._raised(*rest))
            except Exception as error:  # the result would not be read
                future.set_exception(error)
        code = self.wait(Deadline(1.0))
        while self._calls:
            with contextlib.suppress(KeyError):
                _, future = self._calls.popitem()
                future.set_exception(self._exited(code))

    def _raised(self, data: bytes, text: str) -> BaseException:
        error = _pickling.load_exception(data, text)
        if error is None:
            last = text.rstrip().rpartition("\n")[2]
            error = ClusterError(
                f"{self._context.task} raised what cannot be brought here: {last}",
                task=str(self._context.task),
                evidence=text,
                remedy="raise an exception that pickle can take apart and put together again",
            )
        return error

    def _exited(self, code: int | None, doing: str = "") -> ServerExited:
        return reports.exited(self._context, self._log, self.pid, code, doing)

    def ask_to_stop(self) -> int | None:
        if self._stuck:
            self._launcher.abandon()
        elif not self._ready:
            self.signal(signals.SIGKILL)  # it would not listen before it serves
        elif self.program:
            self.signal(signals.SIGTERM)
            return signals.SIGTERM
        else:
            with contextlib.suppress(OSError):
                self._tell("stop", 0)
        return None

    def close(self) -> None:
        if self.exitcode is None:
            self.signal(signals.SIGKILL)
            self.wait(Deadline(5.0))
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # wakes the listener
        if self._listener is not None and self._listener is not threading.current_thread():
            self._listener.join()
        self._control.close()
        with self._reading:
            if self._status is not None:
                os.close(self._status)
                self._status = None


def _readable(fd: int, deadline: Deadline) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    left = deadline.remaining()
    return bool(poller.poll(None if left is None else left * 1000))
