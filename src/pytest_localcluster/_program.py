"""Program: a task that is not Python. Its process starts as ours, and turns into the program."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._spec import Task

__all__ = ["Program", "is_within"]

_IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")
_SHOWN = 500  # characters of a command in messages
_REASONS = {
    errno.ENOEXEC: "it is no binary for this machine, nor a script that begins with #!",
    errno.ENOENT: "the interpreter that its first line names does not exist",
    errno.E2BIG: "its arguments and environment are too long",
}


def is_within(path: str, folder: str) -> bool:
    """Return whether ``path``, which may have ``..`` in it, is below ``folder``."""
    return os.path.normpath(path).startswith(folder.rstrip("/") + "/") or path == folder


@dataclass(frozen=True)
class Program:
    """What a runtime returns in place of a server.

    Attributes:
        command: the program, looked up on the task's PATH, and its arguments.
        directory: its working directory; "" is the one that the task has.
        files: files to write before it starts, by absolute path, with their content. One that is
            there is left as it is, since a program may have changed it before a restart.
        folder: the task's own folder; what is below it is made if it does not exist.
    """

    command: tuple[str, ...]
    directory: str = ""
    files: tuple[tuple[str, bytes], ...] = ()
    folder: str = ""

    def prepare(self) -> None:
        """Write the files and enter the working directory.

        Raises:
            OSError: a file cannot be written, or there is no such directory.
        """
        for name, content in self.files:
            path = Path(name)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    path.write_bytes(content)
            except OSError as error:
                raise type(error)(f"the file {name} cannot be written: {error.strerror}") from None
        if not self.directory:
            return
        directory = os.path.normpath(Path.cwd() / self.directory)
        try:
            if self.folder and is_within(directory, self.folder):
                Path(directory).mkdir(parents=True, exist_ok=True)
            os.chdir(directory)
        except OSError as error:
            raise type(error)(
                f"{directory} cannot be the working directory (cwd=): {error.strerror}; "
                f"the command is: {self}"
            ) from None
        os.environ["PWD"] = directory

    def find(self) -> str:
        """Return the path of the program.

        Raises:
            OSError: there is none of that name, or it may not be executed.
        """
        name = self.command[0]
        path = shutil.which(name)
        if path is not None:
            return path
        if "/" not in name:
            hint = " is on the PATH"
            if Path(name).exists():
                hint += f"; for the one in {Path.cwd()} write {'./' + name!r}"
            raise FileNotFoundError(f"no program {name!r}{hint}; the command is: {self}")
        if Path(name).is_dir():
            raise IsADirectoryError(f"{name!r} is a directory; the command is: {self}")
        if Path(name).exists():
            raise PermissionError(f"{name!r} is not executable (chmod +x); the command is: {self}")
        raise FileNotFoundError(
            f"there is no {name!r} (working directory {Path.cwd()}); the command is: {self}"
        )

    def execute(self, path: str) -> None:
        """Turn this process into the program. Returns never, but for an OSError."""
        for name in _IGNORED_BY_PYTHON:
            if hasattr(signal, name):
                # An ignored signal stays ignored, and the program expects its own way with it.
                signal.signal(getattr(signal, name), signal.SIG_DFL)
        try:
            os.execv(path, self.command)
        except OSError as error:
            why = _REASONS.get(error.errno or 0, error.strerror)
            raise type(error)(f"{path} cannot be executed: {why}; the command is: {self}") from None

    def __str__(self) -> str:
        text = shlex.join(self.command)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."

    def stop(self) -> None:
        """Nothing of it is in this process."""

    def reset(self) -> None:
        """Nothing of it is in this process."""

    def forget(self, task: Task) -> None:
        """Nothing of it is in this process."""
