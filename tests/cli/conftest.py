"""Clusters started from the command line, each with a folder for temporary files of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from tests.survivors.runs import TAG, processes

COMMAND = [sys.executable, "-m", "pytest_localcluster"]


class Up:
    """``up`` in a process of its own; whatever becomes of it, its test ends all that is of it.

    Args:
        folder: for temporary files.
        args: of the command line.
        terminal: whether it has one.
        environ: what else is in its environment.
    """

    def __init__(self, folder: Path, *args: str, terminal: bool = False, **environ: str) -> None:
        self.folder = folder
        self.tag = str(folder)
        out, to = pty.openpty() if terminal else os.pipe()
        self._out = out
        self._buffer = ""
        self.process = subprocess.Popen(
            [*COMMAND, "up", *args],
            stdin=subprocess.DEVNULL,
            stdout=to,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "COLUMNS": "200",
                **environ,
                TAG: self.tag,
                "TMPDIR": str(folder),
                "TERM": "xterm",
            },
        )
        os.close(to)

    def read(self, until: str) -> str:
        """Read what it prints until that is there; return all of it so far."""
        while until not in self._buffer:
            try:
                data = os.read(self._out, 65536)
            except OSError:  # what a terminal answers whose other side is gone
                data = b""
            assert data, f"{until!r} was not printed:\n{self._buffer}"
            self._buffer += data.decode(errors="replace")
        return self._buffer

    def file(self) -> Path:
        """Wait until it is up, and return the path of its file."""
        text = self.read("/task:0 ")  # which comes after it
        return Path(text.partition("localcluster down ")[2].split()[0])

    def facts(self) -> dict[str, Any]:
        """Return what its file says."""
        facts: dict[str, Any] = json.loads(self.file().read_text())
        return facts

    def pids(self) -> list[int]:
        return [task["pid"] for task in self.facts()["tasks"].values()]

    def end(self, number: int = signal.SIGINT) -> str:
        """Send it a signal and wait for its end; return all that it printed."""
        self.process.send_signal(number)
        self.process.wait(20)
        return self.rest()

    def rest(self) -> str:
        while True:
            try:
                data = os.read(self._out, 65536)
            except OSError:
                data = b""
            if not data:
                return self._buffer
            self._buffer += data.decode(errors="replace")

    def leftovers(self) -> list[str]:
        """Return the processes and the files that are left of it."""
        left = [" ".join(one.cmdline()) for one in processes(self.tag)]
        return [*left, *(str(path) for path in self.folder.iterdir())]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in processes(self.tag):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.kill()
        self.process.wait()
        os.close(self._out)


StartUp = Callable[..., Up]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[StartUp]:
    """``up("--workers", "2")`` starts a cluster from the command line."""
    with ExitStack() as stack:

        def start(*args: str, **options: Any) -> Up:
            folder = tmp_path / f"up-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return stack.enter_context(Up(folder, *args, **options))

        yield start


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command() -> Command:
    """``command("down", file)`` runs the command line to its end."""

    def run(*args: object, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *map(str, args)],
            capture_output=True,
            text=True,
            env={**os.environ, **environ},
            timeout=60,
            check=False,
        )

    return run


def line(text: str, what: str) -> str:
    """Return the line of doctor's on something."""
    (found,) = [line for line in text.splitlines() if re.match(rf"\w+ +{re.escape(what)}: ", line)]
    return found
