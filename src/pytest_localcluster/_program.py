"""Program: a task that is not Python. Its process starts as ours, and turns into the program."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._spec import Task

__all__ = ["Program"]

_IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")


@dataclass(frozen=True)
class Program:
    """What a runtime returns in place of a server.

    Attributes:
        command: the program, looked up on the task's PATH, and its arguments.
    """

    command: tuple[str, ...]

    def find(self) -> str:
        """Return the path of the program.

        Raises:
            FileNotFoundError: there is none of that name, or it may not be executed.
        """
        path = shutil.which(self.command[0])
        if path is None:
            raise FileNotFoundError(
                f"no program {self.command[0]!r} that could be executed is here "
                f"(working directory {Path.cwd()}) or on the PATH; asked for was: {self}"
            )
        return path

    def execute(self, path: str) -> None:
        """Turn this process into the program. Returns never, but for an OSError."""
        for name in _IGNORED_BY_PYTHON:
            if hasattr(signal, name):
                # An ignored signal stays ignored, and the program expects its own way with it.
                signal.signal(getattr(signal, name), signal.SIG_DFL)
        os.execv(path, self.command)

    def __str__(self) -> str:
        return shlex.join(self.command)

    def stop(self) -> None:
        """Nothing of it is in this process."""

    def reset(self) -> None:
        """Nothing of it is in this process."""

    def forget(self, task: Task) -> None:
        """Nothing of it is in this process."""
