"""Tasks as child processes, forked from a warm forkserver: the test process's side of it.

See :mod:`pytest_localcluster._launch.forkserver` for the other side, and
:mod:`pytest_localcluster._launch.guard` for who dies with whom.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from .._clock import Deadline
from .._core import environment, pickling, sockets, test_files
from .._core.files import unnamed_file
from .._core.settings import Settings
from .._logs import settle
from ..errors import ClusterError
from . import reports, shelter
from .fate import Origin
from .handle import ChildProcess
from .surroundings import ENVIRONMENT, surroundings, working_directory
from .wire import AHEAD, DONE, DUMP_SIGNAL, END, KEEP, LAUNCH, PING, REQUEST, readable, send_all

if TYPE_CHECKING:
    from .._logs import TaskLog
    from . import Entry

__all__ = ["ProcessLauncher", "launcher", "shutdown"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_ANSWER = 5.0
"""Seconds that a forkserver which has imported everything has for a request: it needs microseconds,
but a task that it is told to suspend may take its time, and the machine may be busy."""

_Key = tuple[tuple[str, ...], frozenset[tuple[str, str]]]
_launchers: dict[_Key, ProcessLauncher] = {}
_launchers_lock = threading.Lock()
_inherited: list[dict[_Key, ProcessLauncher]] = []


def launcher(
    preload: tuple[str, ...], boot_env: Mapping[str, str], run: str = ""
) -> ProcessLauncher:
    """Return this process's launcher for a set of preloaded modules and what they need to load."""
    key = preload, frozenset(boot_env.items())
    with _launchers_lock:
        if any(known.owner != os.getpid() for known in _launchers.values()):
            # Inherited by a fork: they belong to our parent, and must not be finalized here.
            _inherited.append(dict(_launchers))
            _launchers.clear()
        if key not in _launchers:
            if not _launchers:
                atexit.register(shutdown)
            _launchers[key] = ProcessLauncher(preload, boot_env, run)
        return _launchers[key]


def shutdown() -> None:
    """End the forkservers of this process, and whatever still runs in their tasks. Idempotent."""
    with _launchers_lock:
        for known in _launchers.values():
            if known.owner == os.getpid():
                known.close()
        _launchers.clear()


class ProcessLauncher:
    """Starts tasks as processes; its forkserver starts when it is first needed."""

    def __init__(
        self, preload: tuple[str, ...], boot_env: Mapping[str, str], run: str = ""
    ) -> None:
        self.preload = preload
        self.boot_env = boot_env
        self.run = run
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._numbers = count()
        self._server: shelter.Guard | None = None  # its guard, to be exact
        self._origin: Origin | None = None
        self._control: socket.socket | None = None
        self._used = False  # a task was asked of it
        self._keeps = False  # a task of it shall outlive us
        self._sees: object = None  # what the forkserver's imports were given

    def prepare(self) -> None:
        """Start the forkserver if none runs, and do not wait for it.

        One that was started ahead, and has no task yet, is replaced if what its imports may depend
        on has changed since.
        """
        with self._lock:
            running = self._server is not None and self._server.poll() is None
            if not running or (not self._used and self._sees != surroundings()):
                self._start()

    def launch(self, entry: Entry, log: TaskLog) -> ChildProcess:
        """Ask for a task; it is forked while this process goes on."""
        environ, settings = {**environment.for_tasks(), **entry.context.env}, Settings()
        payload = pickle.dumps(
            (
                environ,
                working_directory(),
                sys.path,
                pickling.dumps((entry.serve, entry.context, test_files.patterns)),
                settings.news(),
                entry.terminal.refusal,
            )
        )
        number = next(self._numbers)
        try:
            control, status = self.fork(number, payload, log.open(), entry.deadline)
        except TimeoutError:
            # It is still importing, and its socket is full of requests.
            last = self.said().rstrip().rpartition("\n")[2]
            stacks = self.dump_stacks()
            self.abandon()
            raise reports.start_timeout(
                entry.context,
                None,
                entry.deadline.seconds or 0.0,
                last,
                reports.with_source(stacks),
            ) from None
        assert self._origin is not None
        unseen = self._origin.unseen
        return ChildProcess(self, number, entry, log, control, status, settings, unseen)

    def fork(
        self, number: int, payload: bytes, output: int, deadline: Deadline
    ) -> tuple[socket.socket, int]:
        """Have a task forked that writes to the descriptor ``output``, which is closed here.

        Returns:
            Its control socket and its status pipe.

        Raises:
            TimeoutError: the forkserver took no request by the deadline.
        """
        with ExitStack() as failed, ExitStack() as sent:
            sent.callback(os.close, output)
            ours, theirs = sockets.new_socketpair()
            failed.callback(ours.close)
            sent.callback(theirs.close)
            status, status_end = os.pipe()
            failed.callback(os.close, status)
            sent.callback(os.close, status_end)
            fds = [theirs.fileno(), output, status_end]
            self.request(LAUNCH, (number, payload), fds, deadline=deadline)
            failed.pop_all()
        return ours, status

    def keep(self, number: int | None, fds: Sequence[int]) -> Path:
        """Have a task outlive us, or ports be held; return the folder, yet to be made, for them."""
        self._keeps = True
        self.request(KEEP, number, fds, acknowledged=True)
        return shelter.kept_folder(self._server)

    def fork_ahead(self, tasks: int) -> None:
        """Have processes ready for the next tasks: these are up, and the test goes on."""
        self.request(AHEAD, tasks)

    def request(
        self,
        kind: int,
        request: object,
        fds: Sequence[int] = (),
        *,
        acknowledged: bool = False,
        deadline: Deadline | None = None,
    ) -> bytes:
        """Send a request to the forkserver; one is started for a launch if none runs.

        Returns:
            The answer, if one is wanted and there is somebody to give it.

        Raises:
            TimeoutError: it took no request by the deadline, if one was given.
            ClusterError: it took none, or gave no answer, in the time that it has without one.
        """
        data = pickle.dumps(request)
        by = Deadline(_ANSWER) if deadline is None else deadline
        with self._lock:
            try:
                if self._control is None:
                    raise BrokenPipeError
                self._send(kind, data, fds, by)
                if not acknowledged:
                    return DONE
                if not readable(self._control.fileno(), by):
                    raise TimeoutError
                return self._control.recv(1)
            except (BrokenPipeError, ConnectionResetError):
                # None runs, or it is dead, and then its tasks are too.
                if kind == LAUNCH:
                    self._start()
                    self._send(kind, data, fds, by)
                return DONE
            except TimeoutError:
                if deadline is not None:
                    raise
                pid = self._server.pid if self._server is not None else None
                said = self.said()
                self._abandon()
                raise reports.hung(pid, _ANSWER, said) from None

    def _send(self, kind: int, data: bytes, fds: Sequence[int], deadline: Deadline) -> None:
        assert self._control is not None
        send_all(self._control, REQUEST.pack(kind, len(data)) + data, deadline, fds)
        self._used |= kind == LAUNCH

    def _start(self) -> None:
        self._close()
        self._used, self._keeps, self._sees = False, False, surroundings()
        self._control, theirs = sockets.new_socketpair()
        self._output = unnamed_file()  # _close() closes it
        status, status_end = os.pipe()
        with ExitStack() as sent, ExitStack() as failed:
            sent.enter_context(theirs)
            sent.callback(os.close, status_end)
            failed.callback(os.close, status)
            self._server = shelter.start_guard(
                theirs,
                self.preload,
                output=self._output,
                status=status_end,
                environ={**ENVIRONMENT, **self.boot_env},
                run=self.run,
            )
            failed.pop_all()
        self._origin = Origin(status, self._server, self.said)

    def said(self, since: int = 0) -> str:
        """Return what the forkserver printed: what it imports, and what went wrong with that."""
        return os.pread(self._prints_to(), self._printed(), since).decode(errors="replace")

    def _printed(self) -> int:
        return os.fstat(self._prints_to()).st_size

    def _prints_to(self) -> int:
        hub = None if self._server is None else self._server.output
        return self._output.fileno() if hub is None else hub

    def dump_stacks(self) -> str:
        """Have the forkserver print the stacks of its threads, and return them."""
        with self._lock:
            mark = self._printed()
            if self._server is None or not mark:
                return ""  # its interpreter has not come to our code yet
            self._server.send_signal(DUMP_SIGNAL)
            return settle(self._printed, self.said, mark, Deadline(1.0))

    def close(self) -> None:
        """End the forkserver and all its tasks. Idempotent."""
        with self._lock:
            self._close()

    def abandon(self) -> None:
        """Kill a forkserver that does not answer; the next launch starts another, of its own."""
        with self._lock:
            self._abandon()
            self.run = ""

    def abandon_if_hung(self) -> None:
        """Kill it if it has stopped to answer."""
        with suppress(ClusterError):
            self.request(PING, None, acknowledged=True)

    def _abandon(self) -> None:
        if self._server is not None:
            self._server.terminate()  # the guard kills it, and what is below it
            self._server.send_signal(signal.SIGCONT)  # should somebody have stopped it
        self._close()

    def _close(self) -> None:
        if self._server is None:
            return
        shelter.dismiss(self._server)
        assert self._control is not None
        try:
            self._control.send(REQUEST.pack(END, 0), socket.MSG_DONTWAIT)
            # One without a task may still import, and nothing is to be ended.
            heard = self._used and self._server.born
        except OSError:  # it is dead, or has not listened for long
            heard = False
        if not heard:
            self._server.terminate()
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # a fork of this process may have it open too
        self._control.close()
        if self._keeps and heard:
            self._server.returncode = 0  # it lives on, and is not ours to wait for
        assert self._origin is not None
        self._origin.close()
        shelter.bury(self._server)
        self._output.close()
        self._server = self._control = None

    def __repr__(self) -> str:
        pid = self._server.pid if self._server is not None else None
        return f"<ProcessLauncher of {self.owner}: guard pid {pid}>"
