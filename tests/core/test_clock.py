"""What a test makes of the time: nothing of a cluster stops, jumps or ends early by it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import numpy as np
import pytest

from pytest_localcluster import (
    CommandRuntime,
    LocalCluster,
    Server,
    Session,
    StartTimeout,
    Variable,
    device,
    variables_initializer,
)
from pytest_localcluster._clock import grpc_timeout, now, now_ns, real_time

freezegun = pytest.importorskip("freezegun")
time_machine = pytest.importorskip("time_machine")

PAST, FUTURE = "2000-01-01", "2090-01-01"
Clock = Callable[[], AbstractContextManager[Any]]
CLOCKS: dict[str, Clock] = {
    "freezegun, past": lambda: freezegun.freeze_time(PAST),
    "freezegun, future": lambda: freezegun.freeze_time(FUTURE),
    "freezegun, ticks": lambda: freezegun.freeze_time(PAST, tick=True),
    "time-machine, past": lambda: time_machine.travel(PAST, tick=False),
    "time-machine, future": lambda: time_machine.travel(FUTURE, tick=False),
    "time.monotonic": lambda: mock.patch("time.monotonic", return_value=0.0),
    "time.time": lambda: mock.patch("time.time", return_value=0.0),
    "time.sleep": lambda: mock.patch("time.sleep"),
}


@pytest.fixture(params=CLOCKS)
def clock(request: pytest.FixtureRequest) -> Clock:
    return CLOCKS[request.param]


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def steps(server: Server, size: int) -> None:
    with device("/job:ps/task:0"):
        variable = Variable(np.zeros(size), name="v")
    with Session(server.target) as session:
        session.run(variables_initializer([variable]), timeout=30)
        assert session.run(variable, timeout=30).shape == (size,)


def test_the_clocks_go_on(clock: Clock) -> None:
    before, before_ns, wall = now(), now_ns(), real_time()
    with clock():
        wait(0.02)
        assert 0.02 <= now() - before < 60
        assert 0.02e9 <= now_ns() - before_ns < 60e9
        assert 0.02 <= real_time() - wall < 60


def test_a_timeout_of_grpc_ends_when_it_would_without(clock: Clock) -> None:
    import time

    end = real_time() + 5
    with clock():
        timeout = grpc_timeout(5)
        assert timeout is not None
        assert time.time() + timeout == pytest.approx(end, abs=2)  # noqa: TID251  # as gRPC does
    assert grpc_timeout(None) is None


@pytest.mark.timeout(60)
def test_a_life_within_it(clock: Clock) -> None:
    with clock(), LocalCluster(workers=1, ps=1) as cluster:
        worker = cluster.workers[0]
        with pytest.raises(FutureTimeout):
            worker.run(wait, 1.0, timeout=0.05)
        assert worker.join(timeout=0.05) is None
        steps(worker, 3)
        worker.suspend()
        worker.resume()
        worker.kill()
        worker.restart()
        assert worker.run(int, "3", timeout=20) == 3


@pytest.mark.timeout(60)
def test_begun_before_it_and_ended_after_it(clock: Clock) -> None:
    with LocalCluster(workers=1, ps=1) as cluster:
        with clock():
            steps(cluster.workers[0], 500_000)  # a tensor that goes in chunks, by a call of its own
        steps(cluster.workers[0], 3)
    with clock():
        cluster = LocalCluster(workers=1, ps=0)
        cluster.start()
    cluster.stop()


@pytest.mark.timeout(60)
def test_a_start_that_does_not_end(clock: Clock) -> None:
    sleeps = CommandRuntime(worker=["sleep", "100"])
    cluster = LocalCluster(workers=1, ps=0, start_timeout=0.3, runtime=sleeps)
    with clock(), pytest.raises(StartTimeout):
        cluster.start()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("at", [PAST, FUTURE])
def test_a_function_in_a_task_changes_the_task_s_clock(at: str) -> None:
    def freeze(until: float) -> None:
        with freezegun.freeze_time(at):
            threading.Event().wait(until)

    with LocalCluster(workers=1, ps=1) as cluster:
        worker = cluster.workers[0]
        frozen = worker.submit(freeze, 3.0)
        steps(worker, 3)
        steps(worker, 500_000)
        frozen.result(20)
