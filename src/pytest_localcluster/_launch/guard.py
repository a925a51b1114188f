"""Runs in the guard, never in the test process.

The guard stands between the test process and its forkserver, and does nothing but wait for the end
of either. It was there before either had anything to leave behind, and it needs nobody to tell it
what there is: processes are below it in the family tree, and files are in one folder, whose name it
was given before the test process made it. So it does not matter how the test process ends, or when:
while the forkserver imports, between a request and the fork, in the middle of a stop.

Who dies with whom. When the test process dies, the guard kills all below it and removes the
folder. When the forkserver dies, the kernel kills the tasks (parent death signal, Linux) and the
guard what they have left. When the guard dies, the forkserver ends with all below it. Only if guard
and forkserver are killed at once can something stay: what tasks had started.

A forkserver may have been asked to keep tasks (:mod:`pytest_localcluster._launch.keeping`). Then it
lives on when the test process dies, and the guard waits for its end instead.

A test process without tasks in processes has a guard too, for the folder alone.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._launch import family
from pytest_localcluster._launch.wire import DUMP_SIGNAL, KEEP_SIGNAL

if TYPE_CHECKING:
    from collections.abc import Callable

_DYING = 5.0
"""How many seconds a process may take from the end of its sockets to its own."""


def main(owner: int, folder: str, control: int | None, preload: list[str]) -> None:
    """Guard the process ``owner``, whose logs are in ``folder``.

    Args:
        owner: the test process, which is the parent of this one.
        folder: removed when the owner is dead.
        control: the socket of the forkserver to start; None for none.
        preload: what that imports.
    """
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    family.adopt_orphans()
    guard = _Guard(owner, folder)
    if control is not None:
        guard.start_forkserver(control, preload)
    signal.signal(signal.SIGTERM, guard.end_as_told)
    guard.wait()
    guard.outlive()
    guard.end()


def kept_folder(folder: str, guard: int) -> str:
    """Return the name of the folder for what is kept below ``guard``, which removes it."""
    return f"{folder}-kept-{guard}"


class _Guard:
    """Waits for the end of its owner and of its forkserver, and then sees to all the others'."""

    def __init__(self, owner: int, folder: str) -> None:
        self.owner = owner
        self.folder = folder
        self.server: int | None = None  # until it was waited for
        self.told = False  # by the owner to end
        self.keeps = False  # below it is what is to outlive the owner

    def start_forkserver(self, control: int, preload: list[str]) -> None:
        guard = os.getpid()
        self.server = os.fork()
        if self.server == 0:
            try:
                # Here, since a guard alone has no use for it.
                from pytest_localcluster._launch import forkserver

                forkserver.main(control, guard, preload)
            finally:
                os._exit(1)
        os.close(control)
        signal.signal(DUMP_SIGNAL, self.pass_on)  # the test process knows no pid but ours
        signal.signal(KEEP_SIGNAL, self.keep)

    def pass_on(self, signum: int, _: object) -> None:
        if self.server is not None:
            with suppress(ProcessLookupError):
                os.kill(self.server, signum)

    def keep(self, *_: object) -> None:
        self.keeps = True

    def outlive(self) -> None:
        """If the forkserver keeps tasks, wait for its end; the owner's has come."""
        if self.keeps and self.server is not None and not self.server_ended():
            os.kill(self.server, KEEP_SIGNAL)  # a fork of the owner may have its sockets open
            shutil.rmtree(self.folder, ignore_errors=True)
            self.wait_for([self.server], self.server_ended)

    def wait(self) -> None:
        self.wait_for(
            [self.owner] if self.server is None else [self.owner, self.server], self.is_over
        )

    def wait_for(self, pids: list[int], over: Callable[[], bool]) -> None:
        watches = [watch for watch in map(family.watch, pids) if watch is not None]
        if len(watches) < len(pids):
            poll(over, Deadline(None), interval=0.01)
            return
        poller = select.poll()
        for watch in watches:
            poller.register(watch, select.POLLIN)
        if not over():  # the owner went before it could be watched
            poller.poll()

    def is_over(self) -> bool:
        return self.owner_ended() or (self.server is not None and self.server_ended())

    def owner_ended(self) -> bool:
        return os.getppid() != self.owner

    def server_ended(self) -> bool:
        if self.server is not None:
            pid, status = os.waitpid(self.server, os.WNOHANG)
            if pid:
                self.server = None
                self.told = self.told or status == 0  # it tells what it was told
        return self.server is None

    def end_as_told(self, *_: object) -> NoReturn:
        self.told = True
        self.end()

    def end(self) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not self.server_ended() and not family.ADOPTS:
            # Its tasks are out of our reach: it ends them itself, by the end of its socket.
            poll(self.server_ended, Deadline(1.0))
        family.kill_all([] if self.server is None else [self.server], Deadline(family.PATIENCE))
        if not self.told:
            # A process that dies closes its sockets first: the forkserver may have ended by that,
            # before the owner itself has. If it lives, it sees that, and tells us not to wait.
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
            poll(self.owner_ended, Deadline(_DYING), interval=0.001)
        if self.owner_ended():
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.keeps:
            shutil.rmtree(kept_folder(self.folder, os.getpid()), ignore_errors=True)
        os._exit(0)
