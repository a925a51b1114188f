"""A pytest run in a process of its own, that is brought to a point and then ended in some way."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import psutil

from pytest_localcluster._clock import Deadline, now, poll

__all__ = ["TAG", "Run", "everybody", "family_of", "processes", "processes_below"]

ROOT = Path(__file__).resolve().parents[2]
TAG = "PYTEST_LOCALCLUSTER_TEST_RUN"
"""An environment variable that every process of a run inherits, whatever becomes of its parents."""

SECONDS = 20
"""How long anything may take on a machine that is busy. What is promised is one second."""


def processes(tag: str) -> list[psutil.Process]:
    """Return the processes with this tag."""
    return [one for one in everybody() if one.pid != os.getpid() and _tag(one) == tag]


def everybody() -> Iterator[psutil.Process]:
    """Yield all processes there are."""
    # process_iter() keeps those that it saw, which can hide one that has got a dead one's number.
    for pid in psutil.pids():
        with suppress(psutil.NoSuchProcess):
            yield psutil.Process(pid)


def processes_below(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def family_of(pid: int, tasks: Iterable[int]) -> list[psutil.Process]:
    """Return a worker of xdist, first, and what is for it alone: a hub is for all workers."""
    found = processes_below(pid)
    guards = {
        above
        for task in tasks
        for above in psutil.Process(task).parents()
        if "pytest_localcluster._launch.guard" in " ".join(above.cmdline())
    }
    for guard in guards:
        found += [one for one in processes_below(guard.pid) if one not in found]
    return found


def _tag(process: psutil.Process) -> str:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return process.environ().get(TAG, "")
    except psutil.Error:
        return ""


class Run:
    """A run of ``suite``, which imports ``zoo`` and tells how far it is.

    Args:
        folder: where it runs.
        suite: the text of its test module.
        args: the options of its pytest.
        ahead: the text of a module ``ahead``, which it can have imported by the forkserver.
        environ: what else is in its environment.

    Attributes:
        process: the run's pytest.
        temporary: its directory for temporary files.
    """

    def __init__(
        self, folder: Path, suite: str, *args: str, ahead: str = "", **environ: str
    ) -> None:
        self._folder = folder
        self._tag = str(folder)
        self._known: dict[psutil.Process, int] = {}  # by identity; with what tells of their ends
        self._resources = ExitStack()
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        (folder / "pytest.ini").write_text(
            "[pytest]\n"
            "asyncio_default_fixture_loop_scope = function\n"
            "addopts = -p no:cacheprovider -p no:hypothesispytest\n"
        )
        (folder / "test_suite.py").write_text(f"from tests.survivors.zoo import *\n{suite}")
        (folder / "ahead.py").write_text(ahead)
        os.mkfifo(folder / "reached")
        self._reached = os.open(folder / "reached", os.O_RDWR)  # does not wait for a writer
        self._resources.callback(os.close, self._reached)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
        with (folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *args],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **inherited,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                    TAG: self._tag,
                    "TMPDIR": str(self.temporary),
                    "REACHED": str(folder / "reached"),
                    **environ,
                },
            )
        self._end = self.watch(self.process.pid)

    def watch(self, pid: int) -> int:
        """Return a descriptor that becomes readable when a process ends."""
        watch = os.pidfd_open(pid)
        self._resources.callback(os.close, watch)
        return watch

    def output(self) -> str:
        """Return what the run has printed so far."""
        return (self._folder / "output").read_text(errors="replace")

    def reached(self, *points: str) -> dict[str, Any]:
        """Wait until the run is at one of the points; return what it tells of itself."""
        ready, _, _ = select.select([self._reached, self._end], [], [], 3 * SECONDS)
        assert self._reached in ready, f"{points} was not reached:\n{self.output()}"
        line = bytearray()
        while not line.endswith(b"\n"):
            line += os.read(self._reached, 1)
        told: dict[str, Any] = json.loads(line)
        assert told["point"] in points
        return told

    def go(self, told: dict[str, Any]) -> None:
        """Let the process go on that has told of its point."""
        go = os.open(told["go"], os.O_RDWR)
        self._resources.callback(os.close, go)  # what it holds would be lost if nobody read yet
        os.write(go, b".")

    def note(self, those: Iterable[psutil.Process] | None = None) -> list[int]:
        """Remember ``those`` processes, whose end is awaited, or all; return all pids known."""
        for one in processes(self._tag) if those is None else those:
            if one not in self._known:
                with suppress(psutil.NoSuchProcess, ProcessLookupError):
                    watch = self.watch(one.pid)
                    if one.is_running():  # the descriptor is of this one, not of a successor
                        self._known[one] = watch
        return [one.pid for one in self._known]

    def seconds_until_nobody_is_left(self, of: Iterable[int] = ()) -> float:
        """Wait for the end of all that are known, or of the processes ``of``, the first before all.

        Returns:
            How long after pytest, or the first of these, the last of the others ended.
        """
        pids = list(of)
        awaited = {one: watch for one, watch in self._known.items() if not of or one.pid in pids}
        (end,) = [w for one, w in awaited.items() if one.pid == pids[0]] if pids else [self._end]
        assert select.select([end], [], [], 3 * SECONDS)[0], f"it does not end:\n{self.output()}"
        began = now()
        deadline = Deadline(SECONDS)
        for one, watch in awaited.items():
            ended, _, _ = select.select([watch], [], [], deadline.remaining())
            assert ended, f"{_describe(one)} lives on:\n{self.output()}"
        return now() - began

    def seconds_until_nothing_is_left(self) -> float:
        """Wait for the end of pytest, and of all that is of this run, whether known or not.

        Returns:
            How long after the former nothing was left, as far as it can be told by looking.
        """
        select.select([self._end], [], [], 3 * SECONDS)
        began = now()
        poll(lambda: not self.in_sight(), Deadline(SECONDS))
        return now() - began

    def leftovers(self, excluded: Iterable[int] = ()) -> list[str]:
        """Return the processes and the files that stay when all is over.

        The end of those that were known has been waited for. What was just executed then, such as
        a guard, was nobody's yet: so what it removes may be there for the time that it needs.
        """
        poll(lambda: not self.in_sight(excluded), Deadline(SECONDS))
        return self.in_sight(excluded)

    def in_sight(self, excluded: Iterable[int] = ()) -> list[str]:
        """Return the processes and the files of the run that can be seen now."""
        return [
            *(_describe(one) for one in processes(self._tag) if one.pid not in excluded),
            *(path.name for path in self.temporary.glob("pytest-localcluster*")),
        ]

    def listening(self, ports: Iterable[int]) -> list[int]:
        """Return those ports on which somebody of the run listens; once free, anybody may."""
        ours = {one.pid for one in (*self._known, *processes(self._tag))}
        found = {
            getattr(connection.laddr, "port", 0)
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.pid in ours
        }
        return sorted(found & set(ports))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in {*processes(self._tag), *self._known}:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()
        self._resources.close()


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} ({process.status()}): {' '.join(process.cmdline())[:200]}"
    except psutil.NoSuchProcess:
        return f"{process.pid}, which has just ended"
