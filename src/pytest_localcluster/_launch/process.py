"""Tasks as child processes, forked from a warm forkserver: the test process's side of it.

See :mod:`pytest_localcluster._launch.child` for the other side, and for who dies with whom.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from itertools import count
from typing import TYPE_CHECKING, Any

from .. import _pickling
from .._clock import Deadline
from .._logs import settle
from ..errors import ClusterError
from . import reports
from .child import DUMP_SIGNAL, HEADER, LAUNCH, SIGNAL, STATUS, receive, send

if TYPE_CHECKING:
    from .._logs import TaskLog
    from .._spec import Task
    from . import Entry

__all__ = ["ProcessLauncher", "launcher", "shutdown"]

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from pytest_localcluster._launch.child import main; "
    "main(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[4]))"
)

_ENVIRONMENT = {
    # The threads of BLAS pools do not survive a fork, so none may be made before it.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # A third of a task's birth is page faults, and malloc's moving thresholds make the speed of
    # large messages a matter of luck: one arena, given back late, is faster and steady.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
    "MALLOC_TOP_PAD_": str(32 << 20),
    "LD_BIND_NOW": "1",
    "GRPC_DNS_RESOLVER": "native",
}
"""What the forkserver has in its environment; its tasks get the test process's own."""

_launchers: dict[tuple[str, ...], ProcessLauncher] = {}
_launchers_lock = threading.Lock()


def launcher(preload: tuple[str, ...]) -> ProcessLauncher:
    """Return this process's launcher for a set of preloaded modules."""
    with _launchers_lock:
        if any(known.owner != os.getpid() for known in _launchers.values()):
            _launchers.clear()  # inherited by a fork; they belong to our parent
        if preload not in _launchers:
            if not _launchers:
                atexit.register(shutdown)
            _launchers[preload] = ProcessLauncher(preload)
        return _launchers[preload]


def shutdown() -> None:
    """End the forkservers of this process, and with them whatever still runs in tasks. Idempotent."""
    with _launchers_lock:
        for known in _launchers.values():
            if known.owner == os.getpid():
                known.close()
        _launchers.clear()


class ProcessLauncher:
    """Starts tasks as processes; its forkserver starts when it is first needed."""

    def __init__(self, preload: tuple[str, ...]) -> None:
        self.preload = preload
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._numbers = count()
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def launch(self, entry: Entry, log: TaskLog) -> _Process:
        """Ask for a task; it is forked while this process goes on."""
        try:
            directory: str | None = os.getcwd()
        except FileNotFoundError:
            directory = None
        environ = {**os.environ, **entry.context.env}
        payload = pickle.dumps(
            (environ, directory, sys.path, _pickling.dumps((entry.serve, entry.context)))
        )
        ours, theirs = socket.socketpair()
        status, status_end = os.pipe()
        log_end = log.open()
        number = next(self._numbers)
        fds = [theirs.fileno(), log_end, status_end]
        try:
            self.request(LAUNCH, (number, payload), fds)
        except BaseException:
            ours.close()
            os.close(status)
            raise
        finally:
            theirs.close()
            os.close(log_end)
            os.close(status_end)
        return _Process(self, number, entry, log, ours, status)

    def request(self, kind: int, request: object, fds: list[int] | None = None) -> None:
        """Send a request to the forkserver; one is started for a launch if none runs."""
        data = pickle.dumps(request)
        with self._lock:
            try:
                if self._control is None:
                    raise BrokenPipeError
                self._send(kind, data, fds or [])
            except (BrokenPipeError, ConnectionResetError):
                # None runs, or it is dead, and then its tasks are too.
                if kind == LAUNCH:
                    self._start()
                    self._send(kind, data, fds or [])

    def _send(self, kind: int, data: bytes, fds: list[int]) -> None:
        assert self._control is not None
        socket.send_fds(self._control, [HEADER.pack(kind, len(data))], fds)
        self._control.sendall(data)

    def _start(self) -> None:
        self._close()
        self._control, theirs = socket.socketpair()
        # Unlinked from the start, so that no end of this process can leave it behind.
        self._output = tempfile.TemporaryFile()
        with theirs:
            self._server = subprocess.Popen(
                [
                    sys.executable,
                    *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                    "-c",
                    _BOOT,
                    str(theirs.fileno()),
                    str(os.getpid()),
                    json.dumps(sys.path),
                    json.dumps(self.preload),
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ENVIRONMENT},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the test process; we follow it anyway
            )

    def said(self, since: int = 0) -> str:
        """Return what the forkserver printed: what it imports, and what went wrong with that."""
        return os.pread(self._output.fileno(), self._printed(), since).decode(errors="replace")

    def _printed(self) -> int:
        return os.fstat(self._output.fileno()).st_size

    def dump_stacks(self) -> str:
        """Have the forkserver print the stacks of its threads, and return them."""
        with self._lock:
            mark = self._printed()
            if self._server is not None:
                self._server.send_signal(DUMP_SIGNAL)
            return settle(self._printed, self.said, mark, Deadline(1.0))

    def close(self) -> None:
        """End the forkserver and all its tasks. Idempotent."""
        with self._lock:
            self._close()

    def abandon(self) -> None:
        """Kill a forkserver that does not answer; the next launch starts another."""
        with self._lock:
            if self._server is not None:
                self._server.kill()
            self._close()

    def _close(self) -> None:
        if self._server is None:
            return
        assert self._control is not None
        self._control.close()
        try:
            self._server.wait(2.0)
        except subprocess.TimeoutExpired:
            self._server.kill()  # its tasks die with it
            self._server.wait()
        self._output.close()
        self._server = self._control = None

    def __repr__(self) -> str:
        pid = self._server.pid if self._server is not None else None
        return f"<ProcessLauncher of {self.owner}: forkserver pid {pid}>"


class _Process:
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
                self._records = [*(self._records or [0]), -signal.SIGKILL]
            if len(self._records) == 2:
                os.close(self._status)
                self._status = None

    def wait_ready(self, deadline: Deadline) -> None:
        if not _readable(self._control.fileno(), deadline):
            raise self._start_timeout(deadline)
        try:
            kind, _, *rest = receive(self._control)
        except (EOFError, ConnectionResetError):
            code = self.wait(Deadline(1.0))
            died = reports.exited(self._context, self._log, self.pid, code, " while it started")
            what = f"it {reports.describe_exit(code)}"
            raise reports.start_failed(self._context, self._log, self.pid, what) from died
        if kind == "failed":
            self.wait(Deadline(1.0))
            data, text = rest
            cause = _pickling.load_exception(data, text)
            what = text.rstrip().rpartition("\n")[2]
            raise reports.start_failed(self._context, self._log, self.pid, what) from cause
        self._ready = True

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
        self._launcher.request(SIGNAL, (self._number, int(signal)))

    @property
    def busy(self) -> bool:
        return bool(self._calls)

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[Any]:
        try:
            call = _pickling.dumps((function, args, dict(kwargs)))
        except Exception as error:
            error.add_note(
                f"{getattr(function, '__qualname__', function)} and its arguments go to "
                f"{self._context.task} pickled; make what cannot be in the function"
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
            self._bury()
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
            future = self._calls.pop(number)
            try:
                if kind == "returned":
                    future.set_result(_pickling.loads(rest[0]))
                else:
                    future.set_exception(self._raised(*rest))
            except Exception as error:  # the result would not be read
                future.set_exception(error)
        self._bury()

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

    def _bury(self) -> None:
        """Tell all who wait for a result that none will come."""
        code = self.wait(Deadline(1.0))
        while self._calls:
            with contextlib.suppress(KeyError):
                _, future = self._calls.popitem()
                future.set_exception(reports.exited(self._context, self._log, self.pid, code))

    def ask_to_stop(self) -> None:
        if self._stuck:
            self._launcher.abandon()
        elif not self._ready:
            self.signal(signal.SIGKILL)  # it would not listen before it serves
        else:
            with contextlib.suppress(OSError):
                self._tell("stop", 0)

    def close(self) -> None:
        if self.exitcode is None:
            self.signal(signal.SIGKILL)
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
