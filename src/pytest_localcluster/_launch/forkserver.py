"""Runs in the forkserver, never in the test process.

The forkserver is a clean interpreter that imports what tasks will need once, and then forks a
task for each request. It is the tasks' parent: it alone signals and reaps them, so that no
signal ever meets a process that has taken over the number of a dead one.

What a task has started ends with it, whatever sessions and daemons that has made of itself: see
:mod:`pytest_localcluster._launch.family`; for who dies with whom see
:mod:`pytest_localcluster._launch.guard`, from which this process is forked.

This module imports little: everything here is paid by the first start.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import pickle
import selectors
import signal
import socket
import traceback
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from pytest_localcluster import _coverage, _pickling
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._launch import family
from pytest_localcluster._launch.child import Child, wait_for_orders
from pytest_localcluster._launch.wire import (
    AHEAD,
    DONE,
    DUMP_SIGNAL,
    END,
    LATE,
    LAUNCH,
    ORDERS,
    PING,
    REQUEST,
    STATUS,
    read_exactly,
    send,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

_MOST_AHEAD = 8
"""How many processes wait to become tasks at most: each takes memory while it waits."""

_ORDER_SECONDS = 1.0
"""How long a process that was forked ahead may take to hear that it is a task."""

_STRAY_SECONDS = 0.5
"""How long to wait for what a dead task has left, should it not be possible to kill that."""

_STOP_SECONDS = 2.0  # for the threads of a suspended task to stop: only the kernel can hold one up
_GROUP_SIGNALS = frozenset({signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT})


def main(control: int, guard: int, preload: list[str]) -> None:
    """Be the forkserver below ``guard``; the test process talks over the socket ``control``."""
    family.adopt_orphans()
    family.die_with_parent()  # an import may take long, and nobody listens meanwhile
    if os.getppid() != guard:
        os._exit(1)
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, all_threads=True)
    os.write(1, b"ready to import\n")  # from here on the dump signal does no harm
    if _coverage.VARIABLE in os.environ:
        importlib.import_module("coverage").process_startup()
    _Forkserver(socket.socket(fileno=control), guard, _preload(preload)).serve()


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
    """The loop of the forkserver: requests, the deaths of tasks, the death of the guard."""

    def __init__(self, control: socket.socket, guard: int, failure: BaseException | None) -> None:
        self.control = control
        self.guard = guard
        self.failure = failure
        self.closers: list[Callable[[], None]] = []  # what tasks must not inherit
        self.helpers = frozenset(family.children())  # of what was imported, which tasks may need
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
        watch = family.watch(self.guard)
        if watch is not None:
            selector.register(watch, selectors.EVENT_READ, self.end)
            family.die_with_parent(False)  # now its death is seen, and what tasks started ends too
        if os.getppid() != self.guard:  # it went before we could watch it
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
                try:
                    self.fork_ahead()
                except OSError:  # no memory, or too many: what runs must not pay for what may come
                    self.ahead = 0

    def answer(self) -> None:
        try:
            header, fds, _, _ = socket.recv_fds(self.control, REQUEST.size, 3)
            if not header:
                raise EOFError
            kind, length = REQUEST.unpack(header)
            request = read_exactly(self.control, length)
        except (EOFError, OSError):
            self.end()
        if kind == END:
            self.end(0)
        if kind == LAUNCH:
            self.launch(*pickle.loads(request), *fds)
        elif kind == AHEAD:
            self.ahead = min(pickle.loads(request), _MOST_AHEAD)
        elif kind == PING:
            self.control.send(DONE)
        else:
            self.signal(*pickle.loads(request))

    def launch(self, number: int, payload: bytes, control: int, log: int, status: int) -> None:
        self.ahead = 0  # until the new tasks are up: they need the processors more
        try:
            pid = self.order(payload, control, log)
            if pid is None:
                pid = self.fork(
                    lambda parent: Child(control, log, payload, parent, self.failure).run(), status
                )
        except OSError as error:  # no memory, or too many: what runs must not pay for that
            _refuse(error, control, status)
        else:
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
        with contextlib.ExitStack() as failed, theirs:
            failed.callback(ours.close)
            pid = self.fork(
                lambda parent: wait_for_orders(theirs, parent, self.failure), ours.fileno()
            )
            failed.pop_all()
        self.spares[pid] = ours

    def order(self, payload: bytes, control: int, log: int) -> int | None:
        """Make a task of a spare process; return its pid, None if there is none."""
        while self.spares:
            pid, orders = self.spares.popitem()
            with orders:
                try:
                    os.kill(pid, signal.SIGCONT)  # should somebody have stopped it
                    orders.settimeout(_ORDER_SECONDS)
                    socket.send_fds(orders, [ORDERS.pack(len(payload))], [control, log])
                    orders.sendall(payload)
                except OSError:  # somebody has killed it, or it does not listen
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                else:
                    return pid
        return None

    def signal(self, number: int, signum: int) -> None:
        pid = self.pids.get(number)
        done = pid is None or _send_signal(pid, signum)
        if signum == signal.SIGSTOP:
            # Whoever suspends a task goes on when it does nothing more.
            self.control.send(DONE if done else LATE)

    def reap(self, wakeup: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while wakeup.recv(4096):
                pass
        for pid in [pid for pid in self.spares if os.waitpid(pid, os.WNOHANG)[0]]:
            self.spares.pop(pid).close()
            self.ahead = 0  # whatever killed it might kill the next one
        ended = [(*self.tasks.pop(pid), code) for pid, code in _reaped(self.tasks)]
        for number, _, _ in ended:
            del self.pids[number]
        # Whoever hears of the end of a task can rely on it that nothing of it is left.
        poll(self.nothing_stray, Deadline(_STRAY_SECONDS), interval=0.0005)
        for _, status, code in ended:
            with contextlib.suppress(BrokenPipeError):
                os.write(status, STATUS.pack(code))
            os.close(status)

    def nothing_stray(self) -> bool:
        """Kill what dead tasks have left; tell whether there is nothing of that."""
        known = self.helpers | self.tasks.keys() | self.spares.keys()
        strays = set(family.children()) - known
        for pid in strays:
            family.kill(pid)
            os.waitpid(pid, os.WNOHANG)
        return not strays

    def end(self, code: int = 1) -> NoReturn:
        """Take all tasks along, with all that they have started; 0 if that was asked for."""
        if os.getppid() == self.guard:
            os.kill(self.guard, signal.SIGCONT)  # should somebody have stopped it: it ends as well
        family.kill_all([*self.tasks, *self.spares], Deadline(family.PATIENCE))
        os._exit(code)


def _refuse(error: OSError, control: int, status: int) -> None:
    """Say that there is no process for a task, and that it is over."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(control)) as sock:
        send(sock, ("failed", 0, *_pickling.dump_exception(error)))
    with contextlib.suppress(BrokenPipeError):
        os.write(status, STATUS.pack(0) + STATUS.pack(1))
    os.close(status)


def _reaped(tasks: Collection[int]) -> Iterator[tuple[int, int]]:
    """Bury the tasks that have ended, with the groups that they lead; yield pids and exit codes."""
    for pid in list(tasks):  # whoever is told takes them out
        if hasattr(os, "waitid"):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            family.kill(pid)  # while it is a zombie, nobody else can have its number
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            if not hasattr(os, "waitid"):
                family.kill_group(ended)  # nobody can have got its number as long as one is in it
            yield pid, os.waitstatus_to_exitcode(status)


def _send_signal(pid: int, signum: int) -> bool:
    """Send a signal; for SIGSTOP, tell whether no thread of the process runs any more."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if signum in _GROUP_SIGNALS:
            with contextlib.suppress(ProcessLookupError):  # not the leader of a group yet
                os.killpg(pid, signum)
        if signum not in _GROUP_SIGNALS or signum == signal.SIGKILL:
            os.kill(pid, signum)
        if signum == signal.SIGSTOP and hasattr(os, "waitid"):
            return poll(partial(_has_stopped, pid), Deadline(_STOP_SECONDS), interval=0.0002)
    return True


def _has_stopped(pid: int) -> bool:
    try:
        flags = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, pid, flags) is not None
    except ChildProcessError:
        return True
