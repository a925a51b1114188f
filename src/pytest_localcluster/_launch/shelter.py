"""The guards of this process, and the folder for logs that nobody asked to keep.

See :mod:`pytest_localcluster._launch.guard` for what they do. A guard is told the folder's name
before the folder is made, so that there is no moment in which nobody would remove it.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from typing import IO

__all__ = ["dismiss", "kept_folder", "new_folder", "shutdown", "start_guard"]

_BOOT = (
    "import json, sys; options = json.loads(sys.argv[1]); sys.path[:] = options.pop('path'); "
    "from pytest_localcluster._launch.guard import main; main(**options)"
)
_lock = threading.RLock()
_shelter: _Shelter | None = None
_inherited: list[_Shelter] = []


class _Shelter:
    """A name for a folder, and those who know it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.path = Path(tempfile.gettempdir(), f"pytest-localcluster-{secrets.token_hex(8)}")
        self.guards: list[subprocess.Popen[bytes]] = []
        self.lone: subprocess.Popen[bytes] | None = None  # a guard without a forkserver

    def is_guarded(self) -> bool:
        self.guards = [guard for guard in self.guards if guard.poll() is None]
        return bool(self.guards)


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
    output: IO[bytes] | int = subprocess.DEVNULL,
    environ: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a guard, with a forkserver if it is given that one's ``control`` socket."""
    with _lock:
        shelter = _own()
        options = {
            "path": [path for path in sys.path if isinstance(path, str)],  # as imports do
            "owner": shelter.owner,
            "folder": str(shelter.path),
            "control": None if control is None else control.fileno(),
            "preload": preload,
        }
        guard = subprocess.Popen(
            [
                sys.executable,
                *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                "-c",
                _BOOT,
                json.dumps(options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environ is None else {**os.environ, **environ},
            pass_fds=[] if control is None else [control.fileno()],
            start_new_session=True,  # Ctrl-C is for the test process; we follow it anyway
        )
        shelter.guards.append(guard)
        return guard


def kept_folder(guard: subprocess.Popen[bytes] | None) -> Path:
    """Return the folder, not made yet, that a guard removes when nothing it keeps is left."""
    from .guard import kept_folder as name

    with _lock:
        return Path(name(str(_own().path), 0 if guard is None else guard.pid))


def dismiss(guard: subprocess.Popen[bytes]) -> None:
    """Have another guard for the folder, if there is one: this one is about to be ended."""
    with _lock:
        shelter = _shelter
        if shelter is None or guard not in shelter.guards:
            return
        shelter.guards.remove(guard)
        if shelter.path.exists() and not shelter.is_guarded():
            shelter.lone = start_guard()


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
