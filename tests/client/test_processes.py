"""Sessions to tasks in processes of their own: inside them, and past their deaths."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_localcluster import (
    LocalCluster,
    Session,
    Variable,
    constant,
    current_task,
    device,
    errors,
    function,
    placeholder,
)
from pytest_localcluster._clock import Deadline, poll

with device("/job:ps/task:0"):
    WEIGHTS = Variable(np.zeros(3), name="weights")
    PS_PID = function(os.getpid)()
ADD = WEIGHTS.assign_add(np.ones(3))


@pytest.fixture(scope="module")
def whole_cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, ps=1) as cluster:
        yield cluster


@pytest.fixture
def cluster(whole_cluster: LocalCluster) -> LocalCluster:
    whole_cluster.reset()
    return whole_cluster


def add_once(peer: int) -> list[float]:
    """Run in a task: finds its token by itself, for its own target and for a peer's."""
    address = current_task().cluster_spec.task_address("worker", peer)
    with device("/job:ps/task:0"):
        shared = Variable(np.zeros(3), name="weights")
    with Session(f"grpc://{address}") as session:
        added: list[float] = session.run(shared.assign_add(np.ones(3))).tolist()
        return added


def test_a_session_in_a_task_needs_no_token(cluster: LocalCluster) -> None:
    with cluster.session() as session:
        session.run(WEIGHTS.initializer)
        assert cluster.workers[0].run(add_once, 0) == [1, 1, 1]
        assert cluster.workers[0].run(add_once, 1) == [2, 2, 2]
        assert session.run(WEIGHTS).tolist() == [2, 2, 2]
        assert session.run(PS_PID) == cluster.ps[0].pid != os.getpid()


@pytest.mark.parametrize("job", ["worker", "ps"])
@pytest.mark.parametrize("ran_meanwhile", [True, False])
def test_a_session_outlives_a_kill(cluster: LocalCluster, job: str, ran_meanwhile: bool) -> None:
    server = cluster.jobs[job][0]
    with cluster.session("/job:worker/task:0") as session:
        session.run(WEIGHTS.initializer)
        session.run(PS_PID)
        server.kill()
        if ran_meanwhile:
            for _ in range(2):
                with pytest.raises(errors.UnavailableError, match=server.address):
                    session.run(ADD, timeout=30)
        server.restart()
        assert session.run(PS_PID, timeout=30) == cluster.ps[0].pid
        if job == "ps":
            with pytest.raises(errors.FailedPreconditionError, match="weights"):
                session.run(ADD, timeout=30)
            session.run(WEIGHTS.initializer, timeout=30)
        assert session.run(ADD, timeout=30).tolist() == [1, 1, 1], "nothing ran twice"


def test_a_task_that_dies_in_a_step_ends_it(cluster: LocalCluster) -> None:
    with device("/job:ps/task:0"):
        died = function(lambda: os.kill(os.getpid(), signal.SIGKILL), name="die")()
    with device("/job:worker/task:1"):
        after = function(lambda nothing: 1)(died)
    with cluster.session("/job:worker/task:0") as session:
        with pytest.raises(errors.UnavailableError, match=cluster.ps[0].address):
            session.run(after, timeout=30)
        assert cluster.ps[0].join(10, check=False) == -signal.SIGKILL
        cluster.ps[0].restart()
        assert session.run(PS_PID, timeout=30) == cluster.ps[0].pid


def answers(session: Session, fetch: Any) -> bool:
    try:
        session.run(fetch, timeout=0.3)
    except errors.DeadlineExceededError:
        return False
    return True


def test_a_suspended_target_is_late_and_not_dead(cluster: LocalCluster) -> None:
    one = constant(1)
    with cluster.session("/job:worker/task:1") as session:
        assert session.run(one) == 1
        with cluster.workers[1].suspended():
            # The kernel stops a process's threads a moment after the signal was sent.
            assert poll(lambda: not answers(session, one), Deadline(10))
            late = r"a step for Const:0 was not done by grpc://localhost:\d+ within 0.3 s"
            with pytest.raises(errors.DeadlineExceededError, match=late):
                session.run(one, timeout=0.3)
            unopened = "opening a session was not done by"
            with (
                Session(cluster.workers[1].target) as other,
                pytest.raises(errors.DeadlineExceededError, match=unopened),
            ):
                other.run(one, timeout=0.3)
        assert session.run(one, timeout=30) == 1


OPEN_FILES = Path("/proc/self/fd")


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="counts in /proc, which Linux has")
def test_a_closed_session_leaves_no_thread_and_no_descriptor(cluster: LocalCluster) -> None:
    def use() -> None:
        x: Any = placeholder(np.float64)
        with cluster.session() as session:
            session.run(x + 1, {x: np.zeros(300_000)})

    def count() -> int:
        return len(list(OPEN_FILES.iterdir()))

    use()  # gRPC keeps some things of its own for ever
    files, threads = count(), threading.active_count()
    for _ in range(5):
        use()
    # gRPC closes its sockets a moment after their channel.
    assert poll(lambda: count() <= files, Deadline(5))
    assert poll(lambda: threading.active_count() <= threads, Deadline(5))
