"""Runs in the forkserver, never in the test process.

The forkserver is a clean interpreter that imports what tasks will need once, and then forks a
task for each request. It is the tasks' parent: it alone signals and reaps them, so that no
signal ever meets a process that has taken over the number of a dead one.

Who dies with whom: when the test process goes, however it went, the forkserver sees it (a pidfd
where there are such, the end of the socket everywhere) and kills the process group of every
task; when the forkserver goes, the kernel kills the tasks (parent death signal, Linux); a task
whose control socket ends, ends. So nobody has to come by and clean up.

This module imports little: everything here is paid by the first start.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import pickle
import selectors
import shutil
import signal
import socket
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_localcluster._launch.child import Child, wait_for_orders
from pytest_localcluster._launch.wire import (
    AHEAD,
    DUMP_SIGNAL,
    LAUNCH,
    ORDERS,
    REQUEST,
    STATUS,
    read_exactly,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

_MOST_AHEAD = 8
"""How many processes wait to become tasks at most: each takes memory while it waits."""

_GROUP_SIGNALS = frozenset({signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT})


def main(control: int, owner: int, preload: list[str]) -> None:
    """Be the forkserver of the process ``owner``, which talks over the socket ``control``."""
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, all_threads=True)
    os.write(1, b"ready to import\n")  # from here on the dump signal does no harm
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    _Forkserver(socket.socket(fileno=control), owner, _preload(preload)).serve()


def _preload(modules: list[str]) -> BaseException | None:
    for module in modules:
        os.write(1, f"importing {module}\n".encode())
        try:
            importlib.import_module(module)
        except BaseException as error:
            traceback.print_exc()
            error.add_note(f"while the launcher imported {module!r} ahead for its tasks")
            return error
    return None


class _Forkserver:
    """The loop of the forkserver: requests, the deaths of tasks, the death of the owner."""

    def __init__(self, control: socket.socket, owner: int, failure: BaseException | None) -> None:
        self.control = control
        self.owner = owner
        self.failure = failure
        self.closers: list[Callable[[], None]] = []  # what tasks must not inherit
        self.folders: set[str] = set()  # of logs that nobody asked to keep
        self.pids: dict[int, int] = {}  # by the number that the owner gave the task
        self.tasks: dict[int, tuple[int, int]] = {}  # pid -> its number and status pipe
        self.ahead = 0  # how many spares to have, once there is nothing else to do
        self.spares: dict[int, socket.socket] = {}  # pid -> where it waits for orders

    def serve(self) -> None:
        selector = selectors.DefaultSelector()
        wakeup, alarm = socket.socketpair()
        for end in (wakeup, alarm):
            end.setblocking(False)
        signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector.register(self.control, selectors.EVENT_READ, self.answer)
        selector.register(wakeup, selectors.EVENT_READ, lambda: self.reap(wakeup))
        watch = _watch(self.owner)
        if watch is not None:
            selector.register(watch, selectors.EVENT_READ, self.end)
        if os.getppid() != self.owner:  # it went before we could watch it
            self.end()
        self.closers = [item.close for item in (selector, wakeup, alarm, self.control)]
        if watch is not None:
            self.closers.append(partial(os.close, watch))
        while True:
            idle = len(self.spares) >= self.ahead
            events = selector.select(None if idle else 0)
            for key, _ in events:
                key.data()
            if not events:
                self.fork_ahead()

    def answer(self) -> None:
        try:
            header, fds, _, _ = socket.recv_fds(self.control, REQUEST.size, 3)
            if not header:
                raise EOFError
            kind, length = REQUEST.unpack(header)
            request = read_exactly(self.control, length)
        except (EOFError, OSError):
            self.end()
            return
        if kind == LAUNCH:
            number, payload, folder = pickle.loads(request)
            self.folders = {
                known for known in (*self.folders, folder) if known and Path(known).exists()
            }
            self.launch(number, payload, *fds)
        elif kind == AHEAD:
            self.ahead = min(pickle.loads(request), _MOST_AHEAD)
        else:
            self.signal(*pickle.loads(request))

    def launch(self, number: int, payload: bytes, control: int, log: int, status: int) -> None:
        self.ahead = 0  # until the new tasks are up: they need the processors more
        pid = self.order(payload, control, log)
        if pid is None:
            pid = self.fork(
                lambda parent: Child(control, log, payload, parent, self.failure).run(), status
            )
        self.pids[number] = pid
        self.tasks[pid] = number, status
        with contextlib.suppress(BrokenPipeError):
            os.write(status, STATUS.pack(pid))
        os.close(control)
        os.close(log)

    def fork(self, live: Callable[[int], object], *fds: int) -> int:
        """Fork a process that keeps nothing of ours and lives its own life; return its pid."""
        parent = os.getpid()  # asked for here: a child could already have been handed to another
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                for close in (*self.closers, *(spare.close for spare in self.spares.values())):
                    close()
                for fd in (*(status for _, status in self.tasks.values()), *fds):
                    os.close(fd)
                live(parent)
            finally:
                os._exit(1)
        return pid

    def fork_ahead(self) -> None:
        """Fork a process that will be a task as soon as one is asked for."""
        ours, theirs = socket.socketpair()
        pid = self.fork(lambda parent: wait_for_orders(theirs, parent, self.failure), ours.fileno())
        theirs.close()
        self.spares[pid] = ours

    def order(self, payload: bytes, control: int, log: int) -> int | None:
        """Make a task of a spare process; return its pid, None if there is none."""
        while self.spares:
            pid, orders = self.spares.popitem()
            with orders:
                try:
                    socket.send_fds(orders, [ORDERS.pack(len(payload))], [control, log])
                    orders.sendall(payload)
                except OSError:  # somebody has killed it
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                else:
                    return pid
        return None

    def signal(self, number: int, signum: int) -> None:
        pid = self.pids.get(number)
        if pid is not None:
            _send_signal(pid, signum)
        if signum == signal.SIGSTOP:
            self.control.send(b"\0")  # whoever suspends a task goes on when it does nothing more

    def reap(self, wakeup: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while wakeup.recv(4096):
                pass
        for pid in [pid for pid in self.spares if os.waitpid(pid, os.WNOHANG)[0]]:
            self.spares.pop(pid).close()
        for pid, code in _reaped(self.tasks):
            number, status = self.tasks.pop(pid)
            del self.pids[number]
            with contextlib.suppress(BrokenPipeError):
                os.write(status, STATUS.pack(code))
            os.close(status)

    def end(self) -> None:
        """Take all tasks along, with the groups that they lead and the logs nobody asked for."""
        family = (*self.tasks, *self.spares)
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _kill_group(pid)
        for pid in family:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def _watch(pid: int) -> int | None:
    """Return a descriptor that becomes readable when ``pid`` ends; None where there is no such."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _reaped(tasks: Collection[int]) -> Iterator[tuple[int, int]]:
    """Bury the tasks that have ended, with the groups that they lead; yield pids and exit codes."""
    for pid in list(tasks):
        if hasattr(os, "waitid"):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _kill_group(pid)  # while it is a zombie, nobody else can have its number
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            yield pid, os.waitstatus_to_exitcode(status)


def _send_signal(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if signum in _GROUP_SIGNALS:
            with contextlib.suppress(ProcessLookupError):  # not the leader of a group yet
                os.killpg(pid, signum)
        if signum not in _GROUP_SIGNALS or signum == signal.SIGKILL:
            os.kill(pid, signum)
        if signum == signal.SIGSTOP:
            _wait_stopped(pid)


def _wait_stopped(pid: int) -> None:
    """Wait until no thread of the process runs any more."""
    if hasattr(os, "waitid"):
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
