"""Functions that are given to a task while another thread starts it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from pytest_localcluster import (
    LocalCluster,
    Server,
    ServerExited,
    ServicerRuntime,
    StartError,
)
from pytest_localcluster._clock import Deadline, poll

PATIENCE = 40.0


def slow_after(held: Path, go: Path) -> Any:
    """Return what registers no services, and from its second time on only when it is let."""

    def add(server: grpc.Server) -> None:
        if held.exists():
            held.write_text("waits")
            assert poll(go.exists, Deadline(PATIENCE))
            if go.read_text() == "fail":
                raise LookupError("as it was told")

    return add


@pytest.fixture
def restarting(tmp_path: Path) -> Iterator[tuple[Server, Path, Future[None]]]:
    """Start a worker again; yield it, what lets it go on, and how its restart ends."""
    held, go = tmp_path / "held", tmp_path / "go"
    runtime = ServicerRuntime({"worker": slow_after(held, go)})
    with LocalCluster(workers=1, ps=0, runtime=runtime) as cluster, ThreadPoolExecutor() as pool:
        (worker,) = cluster.workers
        worker.kill()
        held.touch()
        restart = pool.submit(worker.restart)
        try:
            assert poll(lambda: held.read_text() == "waits", Deadline(PATIENCE))
            yield worker, go, restart
        finally:
            go.touch()


def test_it_runs_them_when_it_is_up(restarting: tuple[Server, Path, Future[None]]) -> None:
    worker, go, restart = restarting
    futures = [worker.submit(os.getpid) for _ in range(3)]
    go.touch()
    restart.result(PATIENCE)
    assert [future.result(PATIENCE) for future in futures] == [worker.pid] * 3
    listeners = [one for one in threading.enumerate() if one.name == f"results of {worker.task}"]
    assert len(listeners) == 1


def test_who_waits_hears_that_it_does_not_come_up(
    restarting: tuple[Server, Path, Future[None]],
) -> None:
    worker, go, restart = restarting
    future = worker.submit(os.getpid)
    go.write_text("fail")
    with pytest.raises(StartError, match="as it was told"):
        restart.result(PATIENCE)
    with pytest.raises(ServerExited):
        future.result(PATIENCE)
