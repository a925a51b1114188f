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
import os
import pickle
import selectors
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._core import sockets
from pytest_localcluster._launch import family
from pytest_localcluster._launch.child import Child, wait_for_orders
from pytest_localcluster._launch.keeping import Keeping
from pytest_localcluster._launch.parent import refuse, send_signal
from pytest_localcluster._launch.wire import (
    AHEAD,
    DONE,
    END,
    KEEP,
    KEEP_SIGNAL,
    KEPT_AT_ONCE,
    LATE,
    LAUNCH,
    ORDERS,
    PING,
    REQUEST,
    STATUS,
    read_exactly,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

_MOST_AHEAD = 8
"""How many processes wait to become tasks at most: each takes memory while it waits."""

_ORDER_SECONDS = 1.0
"""How long a process that was forked ahead may take to hear that it is a task."""

_STRAY_SECONDS = 0.5
"""How long to wait for what a dead task has left, should it not be possible to kill that."""


def main(control: int, guard: int, imported: Callable[[], BaseException | None]) -> None:
    """Be the forkserver below ``guard``; the test process talks over the socket ``control``.

    Args:
        control: its descriptor.
        guard: the process that has forked this one.
        imported: imports what tasks need, or has; returns what went wrong with that.
    """
    family.adopt_orphans()
    family.die_with_parent()  # an import may take long, and nobody listens meanwhile
    if os.getppid() != guard:
        os._exit(1)
    _Forkserver(sockets.adopt(control), guard, imported()).serve()


class _Forkserver:
    """The loop of the forkserver: requests, the deaths of tasks, the death of the guard."""

    def __init__(self, control: socket.socket, guard: int, failure: BaseException | None) -> None:
        self.control = control
        self.guard = guard
        self.failure = failure
        self.closers: list[Callable[[], None]] = []  # what tasks must not inherit
        self.alone = False  # so the guard says
        self.helpers = frozenset(family.children())  # of what was imported, which tasks may need
        self.pids: dict[int, int] = {}  # by the number that the owner gave the task
        self.tasks: dict[int, tuple[int, int]] = {}  # pid -> its number and status pipe
        self.ahead = 0  # how many spares to have, once there is nothing else to do
        self.spares: dict[int, socket.socket] = {}  # pid -> where it waits for orders

    def serve(self) -> None:
        self.selector = selector = selectors.DefaultSelector()
        self.keeping = Keeping(self.guard, selector)
        wakeup, alarm = sockets.new_socketpair()
        for end in (wakeup, alarm):
            end.setblocking(False)
        signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.before = signal.signal(KEEP_SIGNAL, lambda *_: setattr(self, "alone", True))
        selector.register(self.control, selectors.EVENT_READ, self.answer)
        selector.register(wakeup, selectors.EVENT_READ, lambda: self.reap(wakeup))
        watch = family.watch(self.guard)
        if watch is not None:
            selector.register(watch, selectors.EVENT_READ, self.end)
            family.die_with_parent(False)  # now its death is seen, and what tasks started ends too
        if os.getppid() != self.guard:  # it went before we could watch it
            self.end()
        closing = (selector, wakeup, alarm, self.control, self.keeping)
        self.closers = [item.close for item in closing]
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
            header, fds, _, _ = socket.recv_fds(self.control, REQUEST.size, KEPT_AT_ONCE)
            if not header:
                raise EOFError
            kind, length = REQUEST.unpack(header)
            request = read_exactly(self.control, length)
        except (EOFError, OSError):
            kind = length = None
        if kind is None or kind == END:
            self.leave(1 if kind is None else 0)
        elif kind == LAUNCH:
            self.launch(*pickle.loads(request), *fds)
        elif kind == AHEAD:
            self.ahead = min(pickle.loads(request), _MOST_AHEAD)
        elif kind == PING:
            self.control.send(DONE)
        elif kind == KEEP:
            self.keep(pickle.loads(request), fds)
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
            refuse(error, control, status)
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
        pid = family.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(KEEP_SIGNAL, self.before)
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
        ours, theirs = sockets.new_socketpair()
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
        done = pid is None or send_signal(pid, signum)
        if signum == signal.SIGSTOP:
            # Whoever suspends a task goes on when it does nothing more.
            self.control.send(DONE if done else LATE)

    def keep(self, number: int | None, fds: list[int]) -> None:
        """Keep a task, of whose control socket this is the other end; or ports."""
        pid = None if number is None else self.pids.get(number)
        if pid is None:
            self.keeping.hold(fds)
        else:
            self.keeping.take(pid, *fds)
        self.control.send(DONE)

    def reap(self, wakeup: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while wakeup.recv(4096):
                pass
        if self.alone:
            self.leave(1)
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
        if self.keeping.alone and not self.keeping.living(self.tasks):
            self.end(0)

    def nothing_stray(self) -> bool:
        """Kill what dead tasks have left; tell whether there is nothing of that."""
        known = self.helpers | self.tasks.keys() | self.spares.keys()
        strays = set(family.children()) - known
        for pid in strays:
            family.kill(pid)
            os.waitpid(pid, os.WNOHANG)
        return not strays

    def leave(self, code: int) -> None:
        """Take all tasks along but those that are kept: the test process is gone, or about to."""
        if not self.keeping.living(self.tasks):
            self.end(code)
        if not self.keeping.alone:
            self.selector.unregister(self.control)
            self.control.close()
            self.ahead = 0
            self.keeping.end_others([*self.tasks, *self.spares])

    def end(self, code: int = 1) -> NoReturn:
        """Take all tasks along, with all that they have started; 0 if that was asked for."""
        if os.getppid() == self.guard:
            os.kill(self.guard, signal.SIGCONT)  # should somebody have stopped it: it ends as well
        family.kill_all([*self.tasks, *self.spares], Deadline(family.PATIENCE))
        os._exit(code)


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
