"""Processes that were forked ahead: tasks like all others once they are tasks, and never left."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from pytest_localcluster import LocalCluster
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._launch import process
from pytest_localcluster._launch.child import SPARE
from pytest_localcluster._runtimes import Assignment, Runtime
from tests.idle import Serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="spares go by a name of Linux's")


@dataclass(frozen=True)
class Dear(Runtime):
    """Serves nothing, and has its tasks forked ahead, by a forkserver of its own."""

    preload = ("colorsys",)
    forks_ahead = True

    def serve(self, assignment: Assignment) -> Serving:
        return Serving()


@pytest.fixture
def spares() -> Iterator[dict[int, psutil.Process]]:
    """Have two spares wait; in the end their forkserver ends, or is buried."""
    with LocalCluster(workers=2, ps=0, runtime=Dear()):
        pass
    yield {spare.pid: spare for spare in waiting(2)}
    launcher().close()


def waiting(count: int) -> list[psutil.Process]:
    def found() -> list[psutil.Process]:
        below = psutil.Process(forkserver()).children()
        named = [child for child in below if child.name() == SPARE.decode()]
        return named if len(named) == count else []

    spares = poll(found, Deadline(20))
    assert spares, f"{count} processes wait for orders"
    return spares


def launcher() -> process.ProcessLauncher:
    return process._launchers[Dear.preload, frozenset()]


def forkserver() -> int:
    guard = launcher()._server
    assert guard is not None
    (server,) = psutil.Process(guard.pid).children()
    return server.pid


def test_they_become_the_next_tasks(
    spares: dict[int, psutil.Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLOUR", "blue")
    with LocalCluster(workers=3, ps=0, runtime=Dear()) as cluster:
        pids = [server.pid for server in cluster.workers]
        assert set(spares) < set(pids), "and the third was forked"
        assert {psutil.Process(pid).name() for pid in pids} != {SPARE.decode()}
        assert SPARE.decode() not in {psutil.Process(pid).name() for pid in pids}
        assert cluster.run(os.getpid) == pids
        assert cluster.run(os.getpgrp) == pids, "each leads a group of its own"
        assert cluster.run(os.getcwd) == [str(tmp_path)] * 3
        assert cluster.run(os.getenv, "COLOUR") == ["blue"] * 3
        assert len(set(cluster.run(os.urandom, 8))) == 3
        cluster.run(print, "words")
        assert [server.log.text() for server in cluster.workers] == ["words\n"] * 3
        cluster.workers[0].kill()
        assert cluster.workers[0].exitcode == -signal.SIGKILL
        cluster.workers[0].restart()
        assert cluster.workers[0].run(os.getpid) == cluster.workers[0].pid
    assert [server.exitcode for server in cluster.workers] == [0, 0, 0]


def test_descriptors_of_others_are_not_theirs(spares: dict[int, psutil.Process]) -> None:
    def open_files() -> set[str]:
        files = [Path(f"/proc/self/fd/{fd}") for fd in range(3, 64)]
        return {str(file.readlink()) for file in files if file.is_symlink()}

    with LocalCluster(workers=3, ps=0, runtime=Dear()) as cluster:
        used = cluster.run(open_files)
    sockets = [{name for name in names if name.startswith("socket:")} for names in used]
    assert [len(names) for names in sockets] == [1, 1, 1], "its control socket alone"
    assert len(set.union(*sockets)) == 3


def test_one_that_died_is_not_waited_for(spares: dict[int, psutil.Process]) -> None:
    for spare in spares.values():
        spare.kill()
    _, alive = psutil.wait_procs(spares.values(), timeout=20)
    assert not alive, "the forkserver buries them"
    with LocalCluster(workers=2, ps=0, runtime=Dear()) as cluster:
        assert cluster.run(lambda: 1) == [1, 1]
        assert not {server.pid for server in cluster.workers} & set(spares)


def test_one_that_is_suspended_is_woken_by_its_orders(spares: dict[int, psutil.Process]) -> None:
    for spare in spares.values():
        spare.suspend()
    with LocalCluster(workers=2, ps=0, runtime=Dear(), env={"LARGE": "x" * 100_000}) as cluster:
        assert {server.pid for server in cluster.workers} == set(spares)
        assert cluster.run(len, "four") == [4, 4]


@pytest.mark.parametrize("end", ["shutdown", "kill"])
def test_they_end_with_their_forkserver(spares: dict[int, psutil.Process], end: str) -> None:
    if end == "kill":
        os.kill(forkserver(), signal.SIGKILL)
    else:
        launcher().close()
    _, alive = psutil.wait_procs(spares.values(), timeout=20)
    assert not alive, "nobody waits for orders that never come"
