"""Runs in a task: ``breakpoint()`` leads to the terminal of the test, if that has one to spare."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from pytest_localcluster.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_localcluster._launch.taskpdb import TaskPdb

_OURS = ("", "pdb.set_trace")
"""Values of PYTHONBREAKPOINT that mean the usual debugger; any other one is obeyed."""


class Breakpoints:
    """The breakpoints of one task, of which one thread at a time is at the terminal.

    Args:
        task: whose they are.
        refusal: why there is no terminal; "" if there is.
        ask: asks for the terminal; returns its path when it is this task's turn.
        leave: tells how it goes on: by a ``"step"``, ``"continue"`` or ``"quit"``.
    """

    def __init__(
        self, task: str, refusal: str, ask: Callable[[], str], leave: Callable[[str], object]
    ) -> None:
        self.task = task
        self.refusal = refusal
        self.ask = ask
        self.leave = leave
        self.pid = os.getpid()
        self.turn = threading.Lock()
        self._own = threading.local()

    def install(self) -> None:
        """Answer ``breakpoint()`` from now on."""
        if os.environ.get("PYTHONBREAKPOINT", "") in _OURS:
            sys.breakpointhook = self.hook

    def hook(self, *args: Any, header: str | None = None, **kwargs: Any) -> Any:
        """Begin to debug the caller.

        Raises:
            UnsupportedError: there is no terminal to do that at.
        """
        if os.environ.get("PYTHONBREAKPOINT", "") not in _OURS:
            return sys.__breakpointhook__(*args, **kwargs)
        frame = sys._getframe(1)
        refusal = self.refusal
        if os.getpid() != self.pid:
            refusal = "this process is a fork of the task, which alone may use the terminal"
        if refusal:
            code = frame.f_code
            raise UnsupportedError(
                f"breakpoint() in {self.task} needs `pytest -s` in a terminal, without xdist",
                task=self.task,
                pid=os.getpid(),
                status=refusal,
                evidence=f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}",
                remedy="run this test alone with -s, give it launcher='thread', "
                "or set PYTHONBREAKPOINT=0 to pass over breakpoints",
            )
        debugger: TaskPdb | None = getattr(self._own, "debugger", None)
        if debugger is None:
            from pytest_localcluster._launch.taskpdb import TaskPdb  # pdb: 20 ms, for who needs it

            debugger = self._own.debugger = TaskPdb(self)
        return debugger.begin(frame, header)

    def end(self) -> None:
        """Stop debugging in this thread: the user's function is over."""
        debugger: TaskPdb | None = getattr(self._own, "debugger", None)
        if debugger is not None:
            debugger.end()
