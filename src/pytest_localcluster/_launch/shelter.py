"""The guards of this process, and the folder for logs that nobody asked to keep.

See :mod:`pytest_localcluster._launch.guard` for what they do. A guard is told the folder's name
before the folder is made, so that there is no moment in which nobody would remove it.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .._clock import Deadline, poll
from .._core.files import unnamed_file
from . import boot
from .surroundings import surroundings

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from typing import IO

__all__ = [
    "Guard",
    "bury",
    "dismiss",
    "hear_of_guards",
    "kept_folder",
    "new_folder",
    "shutdown",
    "start_guard",
]

_GUARD = "pytest_localcluster._launch.guard"
_HUB = "pytest_localcluster._launch.hub"
_ROOM = " " * 32
"""A hub's last word: a guard that is forked from it shows a command line of its own there."""

_lock = threading.RLock()
_shelter: _Shelter | None = None
_inherited: list[_Shelter] = []


class Guard(Protocol):
    """A guard, in the manner of a :class:`subprocess.Popen`.

    Attributes:
        pid: its number.
        returncode: None as long as it is not known to have ended.
        born: whether it guards already.
        output: a descriptor of what is printed on the way to its forkserver; None if that prints.
    """

    returncode: int | None

    @property
    def pid(self) -> int: ...

    @property
    def born(self) -> bool: ...

    @property
    def output(self) -> int | None: ...

    def poll(self) -> int | None:
        """Return None as long as it lives."""

    def send_signal(self, number: int, /) -> None:
        """Send a signal; none if it has ended."""

    def terminate(self) -> None:
        """Have it end."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; TimeoutExpired if that does not come."""

    def close(self) -> None:
        """Give back what this process holds of it."""


class _OwnGuard(subprocess.Popen[bytes]):
    """A guard that is a child of this process."""

    pid: int
    returncode: int | None
    born = True
    output = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, with a timeout of the machine's clock.

        Raises:
            TimeoutExpired: it lives still.
        """
        if timeout is not None:
            poll(lambda: self.poll() is not None, Deadline(timeout), interval=0.0005)
            if self.returncode is None:
                raise subprocess.TimeoutExpired(self.args, timeout)
        return super().wait()

    def close(self) -> None:
        """Give back nothing: a child that was waited for leaves nothing."""


class _Shelter:
    """A name for a folder, and those who know it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.path = Path(tempfile.gettempdir(), f"pytest-localcluster-{secrets.token_hex(8)}")
        self.guards: list[Guard] = []
        self.lone: Guard | None = None  # a guard without a forkserver
        self.hubs: list[subprocess.Popen[bytes]] = []  # what was executed, which forks it and ends

    def is_guarded(self) -> bool:
        self.hubs = [hub for hub in self.hubs if hub.poll() is None]
        self.guards = [guard for guard in self.guards if guard.poll() is None]
        return any(guard.born for guard in self.guards)


def _own() -> _Shelter:
    global _shelter
    if _shelter is None or _shelter.owner != os.getpid():
        if _shelter is not None:  # of the process that forked us: not to be finalized here
            _inherited.append(_shelter)
        _shelter = _Shelter()
        atexit.register(shutdown)
    return _shelter


def start_guard(
    control: socket.socket | None = None,
    preload: tuple[str, ...] = (),
    *,
    output: IO[bytes] | None = None,
    status: int | None = None,
    environ: Mapping[str, str] | None = None,
    run: str = "",
) -> Guard:
    """Start a guard, with a forkserver if it is given that one's ``control`` socket.

    If that can be, it is forked from what a whole ``run`` imports once. The forkserver's pid and
    exit code are written to the descriptor ``status``.
    """
    with _lock:
        shelter = _own()
        guard = None
        if run and control is not None and output is not None and status is not None:
            fds = [control.fileno(), output.fileno(), status]
            guard = _shared_guard(shelter, run, fds, preload, environ or {})
        if guard is None:
            options = {
                "owner": shelter.owner,
                "folder": str(shelter.path),
                "control": None if control is None else control.fileno(),
                "status": status,
                "preload": list(preload),
            }
            fds = [fd for fd in (options["control"], status) if isinstance(fd, int)]
            to = subprocess.DEVNULL if output is None else output
            title = boot.command(_GUARD, str(shelter.owner))
            guard = boot.execute(_OwnGuard, title, options, fds, to, environ or {})
        shelter.guards.append(guard)
        return guard


def _shared_guard(
    shelter: _Shelter,
    run: str,
    fds: list[int],
    preload: tuple[str, ...],
    environ: Mapping[str, str],
) -> Guard | None:
    from . import shared

    if not (shared.AVAILABLE and hasattr(os, "pidfd_open")):
        return None

    def start_hub(listener: socket.socket, starter: int) -> None:
        fds = [listener.fileno(), starter]
        options = {"listener": fds[0], "starter": starter, "preload": list(preload)}
        command = boot.command(_HUB, _ROOM)
        with unnamed_file() as printed:
            hub = boot.execute(subprocess.Popen, command, options, fds, printed, environ)
            shelter.hubs.append(hub)

    folder = str(shelter.path)
    paths, variables = surroundings()
    parts = (run, boot.command(_HUB), preload, paths, sorted({**variables, **environ}.items()))
    title = boot.command(_GUARD, str(shelter.owner))
    return shared.ask_for_guard(parts, title, folder, fds, start_hub)


def kept_folder(guard: Guard | None) -> Path:
    """Return the folder, not made yet, that a guard removes when nothing it keeps is left."""
    from .guard import kept_folder as name

    with _lock:
        return Path(name(str(_own().path), 0 if guard is None else guard.pid))


def dismiss(guard: Guard) -> None:
    """Have another guard for the folder, if there is one: this one is about to be ended."""
    with _lock:
        shelter = _shelter
        if shelter is None or guard not in shelter.guards:
            return
        shelter.guards.remove(guard)
        if shelter.path.exists() and not shelter.is_guarded():
            shelter.lone = start_guard()


def hear_of_guards() -> None:
    """Take note of what the guards of this process, and who forks them, have told meanwhile."""
    with _lock:
        if _shelter is not None and _shelter.owner == os.getpid():
            _shelter.is_guarded()


def bury(guard: Guard) -> None:
    """Wait for the end of a guard that was told to, and give back what is held of it."""
    try:
        guard.wait(2.0)
    except subprocess.TimeoutExpired:
        guard.terminate()
        with suppress(subprocess.TimeoutExpired):
            guard.wait(2.0)
    guard.close()


def new_folder() -> Path:
    """Make a folder, which is removed at the latest when this process is dead."""
    with _lock:
        shelter = _own()
        if not shelter.is_guarded():
            shelter.lone = start_guard()
        shelter.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="cluster-", dir=shelter.path))


def shutdown() -> None:
    """Remove the folder, and end the guard that has no forkserver. Idempotent."""
    global _shelter
    with _lock:
        shelter, _shelter = _shelter, None
        if shelter is None or shelter.owner != os.getpid():
            return
        shutil.rmtree(shelter.path, ignore_errors=True)
        if shelter.lone is not None:
            shelter.lone.terminate()
            shelter.lone.wait()
        for hub in shelter.hubs:
            hub.wait()
