"""``async with`` of a cluster: the event loop goes on, and nothing is left of a cancelled start."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pytest_localcluster import LocalCluster, StartError, UnsupportedError
from tests.test_launch import Runtime


@asynccontextmanager
async def counting() -> AsyncIterator[list[int]]:
    """Count how often the event loop runs."""
    count = [0]

    async def tick() -> None:
        while True:
            count[0] += 1
            await asyncio.sleep(0)

    ticks = asyncio.create_task(tick())
    yield count
    ticks.cancel()


async def five() -> int:
    await asyncio.sleep(0)
    return 5


@pytest.mark.asyncio
async def test_the_loop_goes_on() -> None:
    async with counting() as count:
        async with LocalCluster(workers=1, ps=0) as cluster:
            started = count[0]
            assert await asyncio.wrap_future(cluster.workers[0].submit(five)) == 5
            running = count[0]
        assert 10 < started < running < count[0]
    assert not cluster.workers[0].is_alive()
    assert repr(cluster).endswith(": not running>")


class Start:
    """A start that waits, and tells when it has begun."""

    def __init__(self, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = asyncio.Event(), threading.Event()
        start, loop = cluster.start, asyncio.get_running_loop()

        def wait() -> LocalCluster:
            loop.call_soon_threadsafe(self.begun.set)
            assert self.go.wait(30)
            return start()

        monkeypatch.setattr(cluster, "start", wait)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.asyncio
async def test_a_start_that_is_cancelled(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    cluster = LocalCluster(workers=1, ps=0)
    start = Start(cluster, monkeypatch)

    async def use() -> None:
        async with cluster:
            pytest.fail("it was cancelled before")

    using = asyncio.create_task(use())
    await start.begun.wait()
    for _ in range(times):
        using.cancel()
        await asyncio.sleep(0)
    assert not using.done(), "its thread still starts the cluster"
    start.go.set()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert cluster.start_seconds is not None
    assert repr(cluster).endswith(": not running>")
    assert not cluster.workers[0].is_alive()


@pytest.mark.asyncio
async def test_a_timeout_of_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = LocalCluster(workers=1, ps=0)
    start = Start(cluster, monkeypatch)
    asyncio.get_running_loop().call_later(0.1, start.go.set)

    async def use() -> None:
        async with asyncio.timeout(0), cluster:
            pytest.fail("it was too late")

    with pytest.raises(TimeoutError):
        await use()
    assert not cluster.workers[0].is_alive()


@pytest.mark.asyncio
async def test_a_stop_that_is_cancelled_is_done() -> None:
    cluster = LocalCluster(workers=1, ps=0)

    async def use() -> None:
        async with cluster:
            asyncio.current_task().cancel()  # type: ignore[union-attr]  # there is one

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(use())
    assert not cluster.workers[0].is_alive()


@pytest.mark.asyncio
async def test_a_cluster_that_runs_is_not_stopped_by_a_start_of_it_that_is_cancelled() -> None:
    with LocalCluster(workers=1, ps=0) as cluster:
        using = asyncio.create_task(cluster.__aenter__())
        await asyncio.sleep(0)
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using
        assert cluster.workers[0].is_alive()


@pytest.mark.asyncio
async def test_a_start_that_fails() -> None:
    def fail() -> None:
        raise LookupError("no model there")

    with pytest.raises(StartError, match="no model there"):
        async with LocalCluster(workers=1, ps=0, runtime=Runtime(fail)):
            pytest.fail("it did not start")


def test_another_library_is_refused() -> None:
    entering: Any = LocalCluster(workers=1, ps=0).__aenter__()
    with pytest.raises(UnsupportedError, match="only asyncio can run `async with`"):
        entering.send(None)  # as any event loop does
