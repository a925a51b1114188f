"""Where everybody is: the stacks of all tasks, and of the test process itself."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from . import _held
from ._clock import Deadline
from ._launch.reports import with_source
from ._launch.wire import DUMP_SIGNAL
from ._logs import settle
from .errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._server import Server

__all__ = ["own_stacks", "task_stacks"]

_PATIENCE = 2.0
"""Seconds that all tasks together have to write their stacks; it takes them milliseconds."""


def task_stacks(servers: Sequence[Server]) -> Iterator[tuple[Server, str]]:
    """Yield where the threads of each task are, or why it cannot say so.

    Each is told by a signal that needs no cooperation: a task that holds the interpreter's lock
    answers too. What it writes is also in its log.
    """
    asked = [(server, _ask(server)) for server in servers]
    deadline = Deadline(_PATIENCE)
    for server, answer in asked:
        if isinstance(answer, str):
            yield server, answer
            continue
        text = settle(server.log.mark, server.log.since, answer, deadline)
        yield server, with_source(text) or f"it has not answered within {_PATIENCE:g} s"


def _ask(server: Server) -> int | str:
    """Tell a task to write its stacks; return the mark in its log, or why there will be none."""
    process = server._life.process
    if process is None or process.exitcode is not None:
        return "it is not running"
    if process.pid is None:
        return "it has not been forked yet: what is to be imported before is not imported"
    if process.pid == os.getpid() and not process.elsewhere:
        return "it is a thread of the test process, and among the stacks of that"
    if server.is_suspended():
        return "it is suspended, and cannot say where it is: resume() it first"
    if process.program:
        return f"it is no Python, which was not asked: {process.program}"
    try:
        mark = server.log.mark()
        process.signal(DUMP_SIGNAL)
    except (ClusterError, OSError) as error:
        return f"it could not be asked: {error}"
    return mark


def own_stacks() -> str:
    """Return where the threads of this process are, but for the one that asks."""
    main = threading.main_thread()
    others = [thread for thread in threading.enumerate() if thread is not main]
    return "\n".join(
        f"{thread.name}:\n{_held.stack_of(thread.ident)}"
        for thread in (main, *others)
        if thread is not threading.current_thread()
    )
