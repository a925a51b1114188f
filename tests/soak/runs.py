"""The processes of a soak: two runs of pytest, and a stranger. Nothing of them outlives it."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from pytest_localcluster._clock import Deadline, poll
from tests.survivors.runs import TAG, processes

from .stranger import PORTS
from .witness import Settings

__all__ = ["Runs"]

ROOT = Path(__file__).resolve().parents[2]
TOO_LONG = 120
"""Seconds after which pytest ends a test."""

CONFTEST = 'pytest_plugins = ["tests.soak.suite"]\n'
SUITE = "from tests.soak.suite import test_clusters\n"
INI = "[pytest]\nfilterwarnings = error\n"


class Runs:
    """All that runs; a context manager that ends it.

    Args:
        folder: where it runs.
        settings: what it is told; each run has a name of its own.

    Attributes:
        running: the processes, by name.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._folder = folder
        self._settings = settings

    def start(self, workers: int) -> None:
        """Start them, the first run with so many workers of xdist; 0 is without."""
        xdist = ["--dist=each", f"-n{workers}"] if workers else []
        one = ["--dist=each", "-n1"] if workers else []
        self._start_pytest("main", *xdist)
        # Its ports are those that the first run is likely to pick, too.
        self._start_pytest("beside", *one, f"--cluster-port-range={PORTS[0]}-{PORTS[-1]}")
        self._start("stranger", "tests.soak.stranger")

    def _start_pytest(self, name: str, *options: str) -> None:
        folder = self._folder / name
        folder.mkdir()
        (folder / "conftest.py").write_text(CONFTEST)
        (folder / "test_suite.py").write_text(SUITE)
        (folder / "pytest.ini").write_text(INI)
        unused = ("cacheprovider", "hypothesispytest", "asyncio")
        self._start(
            name,
            "pytest",
            "-q",
            *(f"-pno:{plugin}" for plugin in unused),
            f"--timeout={TOO_LONG}",
            f"--cluster-hang-dump={TOO_LONG // 3}",
            *options,
        )

    def _start(self, name: str, module: str, *options: str) -> None:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        temporary = folder / "temporary"
        temporary.mkdir()
        settings = dataclasses.replace(self._settings, run=name)
        # Without bytecode an import costs three times what it need, and there are many.
        unwanted = ("PYTEST", "PYTHONDONTWRITEBYTECODE")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
        with (folder / "output").open("wb") as output:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", module, *options],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **inherited,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                    TAG: str(self._folder),
                    "TMPDIR": str(temporary),
                    # Else each thread may have a heap of its own: the peaks of these come one by
                    # one, and would look as if something were kept.
                    "MALLOC_ARENA_MAX": "1",
                    **settings.environ(),
                },
                start_new_session=True,  # a group of its own, which can be killed as one
            )

    def over(self) -> bool:
        """Tell whether all have ended."""
        return not self.stuck()

    def stuck(self) -> list[str]:
        """Return the names of those that still run."""
        return [name for name, one in self.running.items() if one.poll() is None]

    def broken(self) -> dict[str, int]:
        """Return how those ended that did not end well."""
        return {name: one.returncode for name, one in self.running.items() if one.returncode}

    def output(self, name: str) -> str:
        """Return what one has printed."""
        return (self._folder / name / "output").read_text(errors="replace")

    def leftovers(self) -> list[str]:
        """Return the processes and the folders that are left of those that have ended."""
        poll(lambda: not processes(str(self._folder)), Deadline(2))  # one second is promised
        return [
            *(f"process {one.pid}: {_describe(one)}" for one in processes(str(self._folder))),
            *map(str, self._folder.glob("*/temporary/pytest-localcluster*")),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.running.values():
            if one.poll() is None:
                os.killpg(one.pid, signal.SIGKILL)
                one.wait()
        # Their guards, in groups of their own, now end what those have started.
        poll(lambda: not processes(str(self._folder)), Deadline(10), interval=0.02)
        for left in processes(str(self._folder)):
            with suppress(psutil.NoSuchProcess):
                left.kill()


def _describe(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())[:200]
    return "which has just ended"
