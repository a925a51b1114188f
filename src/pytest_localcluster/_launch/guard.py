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

A test process without tasks in processes has a guard too, for the folder alone. That of a worker of
xdist is forked from the run's hub (:mod:`pytest_localcluster._launch.hub`), not from the worker.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._launch import family
from pytest_localcluster._launch.wire import DUMP_SIGNAL, KEEP_SIGNAL, STATUS, readable

if TYPE_CHECKING:
    from collections.abc import Callable

_NOTE = "pytest-localcluster-folder"

_DYING = 5.0
"""How many seconds a process may take from the end of its sockets to its own."""


def main(
    owner: int, folder: str, control: int | None, status: int | None, preload: list[str]
) -> None:
    """Guard the process ``owner``, whose logs are in ``folder``.

    Args:
        owner: the test process, which is the parent of this one.
        folder: removed when the owner is dead.
        control: the socket of the forkserver to start; None for none.
        status: the pipe for that one's pid and exit code.
        preload: what that imports.
    """

    def be_forkserver(guard: int) -> None:
        # Here, since a guard alone has no use for it.
        from pytest_localcluster._launch import forkserver, importing

        assert control is not None
        assert status is not None
        os.close(status)  # what imports start may outlive us
        forkserver.main(control, guard, partial(importing.import_ahead, preload))

    guard = _Guard(folder, owner, status=status)
    guard.live(None if control is None else be_forkserver, [] if control is None else [control])


def main_imported(
    folder: str, owner: int, control: int, status: int, leash: int, failure: BaseException | None
) -> None:
    """Guard a process that is not the parent of this one, in which all is imported already.

    Args:
        folder: removed when the owner is dead.
        owner: a descriptor that becomes readable when the test process ends.
        control: the socket of the forkserver to start.
        status: the pipe for that one's pid and exit code.
        leash: open as long as this process lives, and in no other one.
        failure: what went wrong with the imports.
    """
    from pytest_localcluster._launch import forkserver

    def be_forkserver(guard: int) -> None:
        for fd in (owner, leash, status):
            os.close(fd)
        forkserver.main(control, guard, lambda: failure)

    _Guard(folder, watch=owner, status=status).live(be_forkserver, [control])


def kept_folder(folder: str, guard: int) -> str:
    """Return the name of the folder for what is kept below ``guard``, which removes it."""
    return f"{folder}-kept-{guard}"


def write_note(folder: str) -> None:
    """Have this process name the folder that it removes, to who reads its descriptors."""
    if hasattr(os, "memfd_create"):
        with suppress(OSError):
            os.write(os.memfd_create(_NOTE), os.fsencode(folder))


def read_note(pid: int) -> str:
    """Return the folder that a guard removes; "" if the process is none."""
    descriptors = f"/proc/{pid}/fd"
    try:
        for number in os.listdir(descriptors):  # noqa: PTH208
            descriptor = f"{descriptors}/{number}"
            if os.readlink(descriptor).startswith(f"/memfd:{_NOTE}"):  # noqa: PTH115
                return os.fsdecode(Path(descriptor).read_bytes())
    except OSError:
        pass
    return ""


class _Guard:
    """Waits for the end of its owner and of its forkserver, and then sees to all the others'."""

    def __init__(
        self,
        folder: str,
        owner: int = 0,
        watch: int | None = None,
        status: int | None = None,
    ) -> None:
        self.status = status
        self.folder = folder
        self.owner = owner
        self.watch = watch
        self.server: int | None = None  # until it was waited for
        self.signal = 0  # that has told it
        self.told = False  # by the owner to end
        self.keeps = False  # below it is what is to outlive the owner

    def live(self, be_forkserver: Callable[[int], None] | None, controls: list[int]) -> NoReturn:
        """Wait for what there is to wait for, below it a forkserver with these descriptors."""
        for ignored in (signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        family.adopt_orphans()
        if be_forkserver is not None:
            self.start(be_forkserver)
            for control in controls:
                os.close(control)
        write_note(self.folder)
        signal.signal(signal.SIGTERM, self.end_as_told)
        self.wait()
        self.outlive()
        self.end()

    def start(self, be_forkserver: Callable[[int], None]) -> None:
        guard = os.getpid()
        self.server = family.fork()
        if self.server == 0:
            try:
                be_forkserver(guard)
            finally:
                os._exit(1)
        self.tell(self.server)
        signal.signal(DUMP_SIGNAL, self.pass_on)  # the test process knows no pid but ours
        signal.signal(KEEP_SIGNAL, self.keep)

    def tell(self, number: int) -> None:
        """Tell the owner the forkserver's pid, and then its exit code."""
        if self.status is not None:
            with suppress(OSError):  # the owner is dead, or has closed it
                os.write(self.status, STATUS.pack(number))

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
            _wait_for([family.watch(self.server)], self.server_ended)

    def wait(self) -> None:
        watches = [family.watch(self.owner) if self.watch is None else self.watch]
        if self.server is not None:
            watches.append(family.watch(self.server))
        _wait_for(watches, self.is_over)

    def is_over(self) -> bool:
        return self.owner_ended() or (self.server is not None and self.server_ended())

    def owner_ended(self) -> bool:
        if self.watch is not None:
            return readable(self.watch, Deadline(0.0))
        return os.getppid() != self.owner

    def server_ended(self) -> bool:
        if self.server is not None:
            pid, status = os.waitpid(self.server, os.WNOHANG)
            if pid:
                self.server = None
                self.tell(os.waitstatus_to_exitcode(status))
                self.told = self.told or status == 0  # it tells what it was told
        return self.server is None

    def end_as_told(self, signum: int, _: object) -> NoReturn:
        self.told, self.signal = True, signum
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
        if self.signal:  # whoever waits for it shall see that
            signal.signal(self.signal, signal.SIG_DFL)
            os.kill(os.getpid(), self.signal)
        os._exit(0)


def _wait_for(watches: list[int | None], over: Callable[[], bool]) -> None:
    """Wait until one of what is watched ends, or all is ``over`` where something cannot be."""
    poller = select.poll()
    for watch in watches:
        if watch is None:
            poll(over, Deadline(None), interval=0.01)
            return
        poller.register(watch, select.POLLIN)
    if not over():  # it went before it could be watched
        poller.poll()
