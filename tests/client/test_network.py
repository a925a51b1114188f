"""Steps that are under way when the network between tasks, or one of the tasks, is disturbed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_localcluster import LocalCluster, Session, Variable, device, errors, function
from pytest_localcluster._clock import now

PATIENCE = 30


class Gate:
    """Holds up an operation, wherever it runs: two pipes, each opened only when both ends are."""

    def __init__(self, folder: Path) -> None:
        self._reached, self._open = str(folder / "reached"), str(folder / "open")
        for path in (self._reached, self._open):
            os.mkfifo(path)

    def hold(self, value: Any) -> Any:
        """Return ``value``, once the gate is open."""
        reached, gate = self._reached, self._open

        def wait(value: Any) -> Any:
            Path(reached).read_bytes()
            Path(gate).read_bytes()
            return value

        return function(wait)(value)

    def await_operation(self) -> None:
        Path(self._reached).write_bytes(b"")

    def open(self) -> None:
        Path(self._open).write_bytes(b"")


@pytest.fixture(scope="module", params=["process", "thread"])
def running(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, ps=1, links=True, launcher=request.param) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: LocalCluster) -> LocalCluster:
    running.reset()
    return running


@pytest.fixture
def session(cluster: LocalCluster) -> Iterator[Session]:
    with cluster.session() as session:
        yield session


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@pytest.fixture
def total(cluster: LocalCluster, session: Session) -> Variable:
    with device("/job:ps/task:0"):
        total = Variable(np.zeros(2), name="total")
    session.run(total.initializer)
    return total


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


Begin = Callable[..., "Future[Any]"]


@pytest.fixture
def begin(session: Session, total: Variable, gate: Gate, threads: ThreadPoolExecutor) -> Begin:
    """Begin a step that has the other worker wait for what the ps is held up with."""

    def begin(timeout: float) -> Future[Any]:
        with device("/job:ps/task:0"):
            held = gate.hold(total.read())
        with device("/job:worker/task:1"):
            result = held + 1
        future = threads.submit(session.run, result, timeout=timeout)
        gate.await_operation()
        return future

    return begin


def assert_works(session: Session, total: Variable) -> None:
    with device("/job:worker/task:1"):
        result = total.read() + 1
    assert list(session.run(result, timeout=PATIENCE)) == [1, 1]


@pytest.mark.parametrize("one", ["/job:worker/task:0", "/job:worker/task:1"])
def test_a_partition_ends_with_the_timeout_of_the_step(
    cluster: LocalCluster, session: Session, total: Variable, gate: Gate, begin: Begin, one: str
) -> None:
    future = begin(timeout=2)
    with cluster.partition(one, "ps"):
        gate.open()  # it is done, and nobody hears of it
        late = "was not done by .* within 2 s; not finished: .*" + (
            "/job:ps/task:0" if one.endswith("0") else "/job:worker/task:1"
        )
        with pytest.raises(errors.DeadlineExceededError, match=late):
            future.result(PATIENCE)
    assert_works(session, total)


def test_what_a_partition_held_goes_on(cluster: LocalCluster, gate: Gate, begin: Begin) -> None:
    future = begin(timeout=PATIENCE)
    with cluster.partition("worker", "ps"):
        gate.open()
        with pytest.raises(TimeoutError):
            future.result(0.3)
    assert list(future.result(PATIENCE)) == [1, 1]


@pytest.mark.parametrize(
    "between",
    [
        lambda cluster: cluster.partition("worker", "ps"),
        lambda cluster: cluster.partition("/job:worker/task:0", "/job:worker/task:1"),
    ],
)
def test_a_step_that_begins_amid_a_partition(
    cluster: LocalCluster,
    session: Session,
    total: Variable,
    between: Callable[[LocalCluster], AbstractContextManager[object]],
) -> None:
    with device("/job:worker/task:1"):
        result = total.read() * 2
    with between(cluster), pytest.raises(errors.DeadlineExceededError, match="/job:"):
        session.run(result, timeout=0.5)
    assert_works(session, total)


@pytest.mark.parametrize("one", ["/job:worker/task:0", "/job:worker/task:1"])
def test_a_drop_ends_the_step_at_once(
    cluster: LocalCluster, session: Session, total: Variable, gate: Gate, begin: Begin, one: str
) -> None:
    future = begin(timeout=PATIENCE)
    with cluster.drop(one, "ps"):
        with pytest.raises(errors.UnavailableError, match="/job:ps/task:0 at .* could not be rea"):
            future.result(PATIENCE)
        gate.open()
        with device("/job:worker/task:1"):
            another = total.read() + 2
        with pytest.raises(errors.UnavailableError, match="/job:ps/task:0"):
            session.run(another, timeout=PATIENCE)
    assert_works(session, total)


def test_a_delay_is_paid_there_and_back(
    cluster: LocalCluster, session: Session, total: Variable
) -> None:
    read = total.read()
    session.run(read)
    with cluster.delay("worker", "ps", 0.2):
        began = now()
        assert list(session.run(read, timeout=PATIENCE)) == [0, 0]
        assert now() - began >= 0.4
    assert list(session.run(read)) == [0, 0]


def test_what_was_acknowledged_was_done_once(
    cluster: LocalCluster, session: Session, total: Variable, threads: ThreadPoolExecutor
) -> None:
    add = total.assign_add(np.ones(2))
    tried = done = 0
    for number in range(12):
        future = threads.submit(session.run, add, timeout=0.3 if number % 4 else PATIENCE)
        fault = (cluster.drop, cluster.partition)[number % 2]("worker", "ps")
        if number % 3:
            fault.heal()
        tried += 1
        try:
            if not number % 4:
                fault.heal()
            future.result(PATIENCE)
            done += 1
        except (errors.DeadlineExceededError, errors.UnavailableError):
            pass
        fault.heal()
    first, second = session.run(total.read(), timeout=PATIENCE)
    assert first == second
    assert done <= first <= tried


class TestSuspended:
    @pytest.fixture(autouse=True)
    def only_processes(self, cluster: LocalCluster) -> None:
        if cluster.config.launcher == "thread":
            pytest.skip("a thread cannot be suspended")

    def test_a_step_outlasts_a_short_one(
        self, cluster: LocalCluster, gate: Gate, begin: Begin
    ) -> None:
        future = begin(timeout=PATIENCE)
        with cluster.ps[0].suspended(), pytest.raises(TimeoutError):
            future.result(0.3)
        gate.open()
        assert list(future.result(PATIENCE)) == [1, 1]

    @pytest.mark.parametrize("job", ["ps", "worker"])
    def test_a_step_ends_with_its_timeout_amid_a_long_one(
        self,
        cluster: LocalCluster,
        session: Session,
        total: Variable,
        gate: Gate,
        begin: Begin,
        job: str,
    ) -> None:
        future = begin(timeout=1)
        server = cluster.jobs[job][-1]
        with server.suspended():
            late = f"within 1 s; not finished: .*{server.task}"
            with pytest.raises(errors.DeadlineExceededError, match=late):
                future.result(PATIENCE)
        gate.open()
        assert_works(session, total)
