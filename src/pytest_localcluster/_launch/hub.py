"""Runs in the hub and its importer, never in a test process.

The workers of xdist would each import the same for their tasks, on the same few processors. So the
first that needs a forkserver starts a hub for all of its run, and the others find that. Below the
hub is an importer, which imports what tasks need, once, and from then on forks a guard for each
that asks: with that guard, and the forkserver below it, a worker has what it would have had alone,
but for the imports.

Who dies with whom stays as it was. A worker's guard waits for that worker, and for nobody else: it
was given a descriptor that tells of its end. What the hub and the importer do is over for a worker
when it has its guard, so either may be killed then; the next one that asks starts another. The hub
ends with the last worker, also while it still imports.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import selectors
import signal
import socket
from collections.abc import Set as AbstractSet
from functools import partial
from typing import NamedTuple, NoReturn

from pytest_localcluster import _rendezvous
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._core import sockets
from pytest_localcluster._launch import family, guard
from pytest_localcluster._launch.importing import import_ahead
from pytest_localcluster._launch.wire import DUMP_SIGNAL, STATUS

_ASKING = 5.0
"""How many seconds whoever connects may take to say what it wants."""

_IMPORTED = STATUS.pack(0)


def main(listener: int, starter: int, preload: list[str]) -> None:
    """Be the hub of a run.

    Args:
        listener: the socket that workers connect to.
        starter: a descriptor that becomes readable when the worker that has started this ends.
        preload: the modules to import.
    """
    if family.fork():
        os._exit(0)  # it is the run's, not below the worker that happened to be first
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    _Hub(sockets.adopt(listener), preload).serve(starter)


class _Order(NamedTuple):
    """A guard to be forked: for whom, with which descriptors, and what holds these here."""

    wanted: bytes
    fds: list[int]
    held: contextlib.ExitStack


class _Hub:
    """Takes what workers ask for to the importer, and watches all of them."""

    def __init__(self, listener: socket.socket, preload: list[str]) -> None:
        family.adopt_orphans()
        self.listener = listener
        self.orders, theirs = sockets.new_socketpair()
        self.guards: set[int] = set()  # pids, some of them long ended
        self.owners: set[int] = set()  # descriptors
        self.imported = False
        self.waiting: dict[socket.socket, _Order] = {}  # for that
        self.selector = selectors.DefaultSelector()
        hub = os.getpid()
        self.importer = family.fork()
        if self.importer == 0:
            try:
                listener.close()
                self.orders.close()
                self.selector.close()
                _Importer(theirs).serve(hub, preload)
            finally:
                os._exit(1)
        theirs.close()

    def serve(self, starter: int) -> NoReturn:
        # Who waits for the imports asks for their stacks, and knows only this process.
        signal.signal(DUMP_SIGNAL, lambda *_: os.kill(self.importer, DUMP_SIGNAL))
        self.watch(starter)
        self.selector.register(os.pidfd_open(self.importer), selectors.EVENT_READ, self.end)
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
        self.selector.register(self.orders, selectors.EVENT_READ, self.hear)
        while True:
            for key, _ in self.selector.select():
                key.data()

    def watch(self, owner: int) -> None:
        self.owners.add(owner)
        self.selector.register(owner, selectors.EVENT_READ, partial(self.leave, owner))

    def leave(self, owner: int) -> None:
        self.owners.remove(owner)
        self.selector.unregister(owner)
        os.close(owner)
        if not self.owners:
            self.end()

    def accept(self) -> None:
        leash = _rendezvous.accept(self.listener)
        if leash is None:
            return
        with contextlib.ExitStack() as stack:
            stack.enter_context(leash)
            with contextlib.suppress(OSError, EOFError):
                wanted, fds = _rendezvous.receive(leash, Deadline(_ASKING))
                for fd in fds:
                    stack.callback(os.close, fd)
                self.watch(os.dup(fds[0]))
                own = os.pidfd_open(os.getpid())
                stack.callback(os.close, own)
                _rendezvous.send(leash, STATUS.pack(os.getpid()), [own, 1])
                order = _Order(wanted, [*fds, leash.fileno()], stack.pop_all())
                if self.imported:
                    self.pass_on(order)
                else:
                    self.waiting[leash] = order
                    self.selector.register(leash, selectors.EVENT_READ, partial(self.drop, leash))

    def drop(self, leash: socket.socket) -> None:
        """Forget what somebody waited for, who is gone or will not wait any more."""
        self.selector.unregister(leash)
        self.waiting.pop(leash).held.close()  # and so all that its forkserver was sent

    def pass_on(self, order: _Order) -> None:
        with order.held, contextlib.suppress(BrokenPipeError):
            _rendezvous.send(self.orders, order.wanted, order.fds)

    def hear(self) -> None:
        """Hear from the importer whom it has forked, or that it can."""
        with contextlib.suppress(BlockingIOError):
            while told := self.orders.recv(STATUS.size, socket.MSG_DONTWAIT):
                if told != _IMPORTED:
                    self.guards.update(STATUS.unpack(told))
                    continue
                self.imported = True
                for leash, order in self.waiting.items():
                    self.selector.unregister(leash)
                    self.pass_on(order)
                self.waiting.clear()

    def end(self) -> NoReturn:
        """End the importer, and what its imports have started; guards know when to end."""
        self.listener.close()  # from here on, whoever comes starts another
        pid, status = os.waitpid(self.importer, os.WNOHANG)
        if not pid:
            os.kill(self.importer, signal.SIGKILL)
            _, status = os.waitpid(self.importer, 0)
        self.hear()
        code = os.waitstatus_to_exitcode(status)
        for order in self.waiting.values():  # it ended in the imports
            with contextlib.suppress(OSError):
                os.write(order.fds[3], STATUS.pack(self.importer) + STATUS.pack(code))
        _end_strays(self.guards)  # with the importer, what it had started has become ours
        os._exit(0)


class _Importer:
    """Imports, and then forks."""

    def __init__(self, orders: socket.socket) -> None:
        self.orders = orders
        self.guards: set[int] = set()

    def serve(self, hub: int, preload: list[str]) -> NoReturn:
        family.adopt_orphans()
        family.die_with_parent()  # nobody listens while it imports
        if os.getppid() != hub:
            os._exit(1)
        # Before what users have imported: from then on the path is theirs.
        importlib.import_module("pytest_localcluster._launch.forkserver")
        self.failure = import_ahead(preload)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a guard has ended
        self.orders.send(_IMPORTED)
        family.die_with_parent(False)  # now that is seen, and what imports have started ends too
        while True:
            try:
                wanted, fds = _rendezvous.receive(self.orders)
            except EOFError:
                _end_strays(self.guards)
                os._exit(1)
            title, folder = pickle.loads(wanted)
            with contextlib.suppress(OSError):  # no memory: who asked hears the end of the leash
                self.fork_guard(title, folder, *fds)
            for fd in fds:
                os.close(fd)

    def fork_guard(
        self,
        title: list[bytes],
        folder: str,
        owner: int,
        control: int,
        output: int,
        status: int,
        leash: int,
    ) -> None:
        pid = family.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self.orders.close()
                os.setsid()
                family.retitle(title)
                for standard in (1, 2):
                    os.dup2(output, standard)
                os.close(output)
                guard.main_imported(folder, owner, control, status, leash, self.failure)
            finally:
                os._exit(1)
        watch = os.pidfd_open(pid)
        with contextlib.suppress(OSError), sockets.adopt(os.dup(leash)) as sock:
            _rendezvous.send(sock, STATUS.pack(pid), [watch])
        os.close(watch)
        self.guards.add(pid)
        self.orders.send(STATUS.pack(pid))


def _end_strays(guards: AbstractSet[int]) -> None:
    """Kill all children but those that are, or were, guards; they know themselves when to end."""

    def nobody() -> bool:
        strays = set(family.children()) - guards
        for pid in strays:
            family.kill(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return not strays

    poll(nobody, Deadline(family.PATIENCE), interval=0.001)
