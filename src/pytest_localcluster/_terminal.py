"""The terminal of the test process, which tasks at breakpoints get one after the other.

The debugger runs in the task, which opens the terminal itself, by its path. What passes over the
control sockets is only whose turn it is. A task has the terminal for one prompt. If it then goes on
by a step, it will soon be back, so that others wait a moment for it; but no longer, since the step
may be what they are needed for.

Deadlines that could pass while somebody types ask :func:`in_use`, and begin anew.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from ._clock import Timer
from ._held import hold_thread
from ._observer import observer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._observer import Debugging

__all__ = ["Terminal", "in_use", "terminal", "until_free"]

_STEP = 1.0
"""Seconds that a step may take before somebody else gets the terminal."""


class Terminal:
    """Whose turn it is.

    Those who ask are told apart by identity.

    Attributes:
        refusal: why no task gets it; "" if tasks do.
        path: what a task opens.
    """

    def __init__(self, refusal: str, path: str, debugging: Debugging | None) -> None:
        self.refusal = refusal
        self.path = path
        self._debugging = debugging
        self._lock = threading.RLock()
        self._free = threading.Condition(self._lock)
        self._holder: object = None
        self._stepping: object = None
        self._waiting: deque[tuple[object, Callable[[str], None]]] = deque()
        self._timer: Timer | None = None

    @property
    def used(self) -> bool:
        """Whether somebody types, or waits to, or makes a step."""
        return bool(self._holder or self._stepping or self._waiting)

    def ask(self, who: object, grant: Callable[[str], None]) -> None:
        """Have ``grant`` called with the path when it is ``who``'s turn, perhaps at once."""
        with self._lock:
            if who is self._stepping:
                self._waiting.appendleft((who, grant))
                self._stepping = None
            else:
                self._waiting.append((who, grant))
            if self._holder is None and self._stepping is None:
                self._next()
            elif self._stepping is not None:
                self._await_step()

    def leave(self, who: object, how: str) -> None:
        """Learn that ``who`` runs again: by a ``"step"``, ``"continue"`` or ``"quit"``."""
        with self._lock:
            if who not in (self._holder, self._stepping):
                return
            prompted, self._holder = self._holder is not None, None
            self._stepping = who if how == "step" else None
            if prompted and self._debugging is not None:
                self._debugging.resumed(how)
            if self._stepping is None:
                self._next()
            elif self._waiting:
                self._await_step()

    def gone(self, who: object) -> None:
        """Learn that ``who`` will not come back. Idempotent."""
        with self._lock:
            for entry in [entry for entry in self._waiting if entry[0] is who]:
                self._waiting.remove(entry)
            self.leave(who, "continue")
            self._free.notify_all()

    def wait(self) -> None:
        """Wait until nobody uses it."""
        with self._free:
            self._free.wait_for(lambda: not self.used)

    def _await_step(self) -> None:
        if self._timer is None:
            give_up = partial(self._give_up, self._stepping)
            self._timer = Timer(_STEP, give_up, "turn at the terminal")
            self._timer.daemon = True
            self._timer.start()
            hold_thread(self._timer)

    def _give_up(self, who: object) -> None:
        with self._lock:
            self._timer = None
            if self._stepping is who and self._holder is None:
                self._next()

    def _next(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._holder, grant = self._waiting.popleft()
            self._stepping = None
            if self._debugging is not None:
                self._debugging.prompting()
            with contextlib.suppress(OSError):  # it is dead, and that is told elsewhere
                grant(self.path)
        self._free.notify_all()


_terminal: Terminal | None = None


def terminal() -> Terminal:
    """Return the terminal that tasks which start now may ask for."""
    global _terminal
    watcher = observer()
    debugging = None if watcher is None else watcher.debugging
    refusal = "" if debugging is None else debugging.refusal()
    path = ""
    if not refusal:
        try:
            path = os.ttyname(0)
            if not os.access(path, os.R_OK | os.W_OK):
                refusal = f"the terminal {path} cannot be opened"
        except OSError:
            refusal = "the input of the test process is no terminal"
    if _terminal is None or (_terminal.refusal, _terminal.path) != (refusal, path):
        _terminal = Terminal(refusal, path, debugging)
    return _terminal


def in_use() -> bool:
    """Tell whether somebody is in the debugger of a task."""
    return _terminal is not None and _terminal.used


def until_free() -> None:
    """Wait until nobody is in the debugger of a task."""
    if _terminal is not None:
        _terminal.wait()
