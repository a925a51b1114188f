"""Runs first in the guard, the hub and the steward, never in the test process.

Each is a new interpreter that has inherited blocked and ignored signals from the test process,
which are set back to what programs expect. The path is that of the test process, but with
the standard library first until :func:`import_as_the_user` is called: what this package imports
must not be a file of the user's that has the same name.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

from pytest_localcluster._core import library

__all__ = ["begin", "import_as_the_user", "reset_signals"]

_IGNORED_BY_PYTHON = {
    getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ") if hasattr(signal, name)
}
_path: list[str] | None = None
_shadows: dict[str, bool] = {}


def begin(role: str, message: dict[str, Any]) -> None:
    """Call ``main`` of the module ``role`` with the options of the message."""
    global _path, _shadows
    _path, _shadows = message["path"], message["shadows"]
    reset_signals()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.environ.update(message["environ"])
    importlib.import_module(role).main(**message["options"])


def reset_signals() -> None:
    """Block no signal, and ignore none but those that every Python ignores."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def import_as_the_user() -> None:
    """Have imports find from now on what those of the test process would. Idempotent."""
    global _path, _shadows
    if _path is not None:
        library.mean(_shadows)
        sys.path[:] = _path
        _path, _shadows = None, {}
