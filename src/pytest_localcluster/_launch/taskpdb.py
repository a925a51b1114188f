"""Runs in a task: the debugger of one of its threads, at the terminal of the test."""

from __future__ import annotations

import contextlib
import io
import os
import pdb
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from pytest_localcluster._launch.debugger import Breakpoints

_NOT_THE_USERS = ("pytest_localcluster.*", "grpc.*", "concurrent.futures.*", "threading")
"""Modules that call the user's functions in tasks: a step does not lead into these."""


class TaskPdb(pdb.Pdb):
    """Has the terminal for one prompt at a time, and gives it back while the task runs."""

    def __init__(self, breakpoints: Breakpoints) -> None:
        nowhere = io.StringIO()
        super().__init__(stdin=nowhere, stdout=nowhere, skip=_NOT_THE_USERS, nosigint=True)
        self.prompt = f"({breakpoints.task} Pdb) "
        self._breakpoints = breakpoints
        self._prompting = False
        self._how = "continue"

    def begin(self, frame: FrameType, header: str | None) -> None:
        """Debug ``frame`` from its next line on, or from Python 3.13 on from where it is."""
        self._take()
        name = f"breakpoint() in {self._breakpoints.task}, pid {os.getpid()}"
        self.message(f"\n>>> {header or name} >>>")
        self.set_trace(frame)

    def end(self) -> None:
        """Debug no more, if this thread is in the middle of a step."""
        if self._how == "step" or self._prompting:
            self.set_continue()
            self._give_back()

    def user_line(self, frame: FrameType) -> None:
        """Stop at a line."""
        with self._at_the_terminal():
            super().user_line(frame)

    def user_opcode(self, frame: FrameType) -> None:
        """Stop at an instruction: from Python 3.13 on ``breakpoint()`` leads there first."""
        with self._at_the_terminal():
            super().user_opcode(frame)  # type: ignore[misc]  # older ones neither have nor call it

    def user_call(self, frame: FrameType, argument_list: Any) -> None:
        """Stop at the begin of a function, if a step has led there."""
        if self.stop_here(frame):
            with self._at_the_terminal():
                super().user_call(frame, argument_list)

    def user_exception(self, frame: FrameType, exc_info: Any) -> None:
        """Stop at an exception."""
        with self._at_the_terminal():
            super().user_exception(frame, exc_info)

    def user_return(self, frame: FrameType, return_value: Any) -> None:
        """Stop at the end of a function; there is nothing beyond if it was called by us."""
        with self._at_the_terminal():
            super().user_return(frame, return_value)
        caller = frame.f_back
        if caller is None or self.is_skipped_module(caller.f_globals.get("__name__", "")):
            self.end()

    def set_continue(self) -> None:
        """Go on to the next breakpoint."""
        super().set_continue()
        self._how = "continue"

    def set_quit(self) -> None:
        """End the function by BdbQuit."""
        super().set_quit()
        self._how = "quit"

    @contextlib.contextmanager
    def _at_the_terminal(self) -> Iterator[None]:
        self._take()
        self._how = "step"
        try:
            yield
        finally:
            self._give_back()

    def _take(self) -> None:
        if self._prompting:
            return
        self._breakpoints.turn.acquire()
        self._prompting = True
        try:
            path = self._breakpoints.ask()
            # Not as this session's controlling terminal: Ctrl-C is for the test process.
            fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
            self.stdin = os.fdopen(fd, encoding="utf-8", errors="replace", closefd=False)
            self.stdout = os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace")
        except BaseException:
            self._give_back()
            raise

    def _give_back(self) -> None:
        if self._prompting:
            for file in (self.stdin, self.stdout):
                file.close()
            self._prompting = False
            self._breakpoints.turn.release()
        self._breakpoints.leave(self._how)
