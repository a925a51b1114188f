"""Clusters whose jobs have runtimes of their own."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pytest_localcluster import (
    CommandRuntime,
    LocalCluster,
    ServicerRuntime,
    SpecError,
    Variable,
    current_task,
    device,
    function,
)
from tests.command.commands import SERVE
from tests.reach import listens


def add_nothing(server: Any, task: Any) -> None:
    """The health service comes by itself."""


@pytest.fixture
def cluster() -> Any:
    runtime = {
        "worker": "native",
        "ps": CommandRuntime(ps=SERVE),
        "store": ServicerRuntime(store=add_nothing),
    }
    with LocalCluster(workers=2, ps=1, jobs={"store": 1}, runtime=runtime) as cluster:
        yield cluster


def test_each_job_has_its_own(cluster: LocalCluster) -> None:
    worker, ps, store = cluster.workers[0], cluster.ps[0], cluster.jobs["store"][0]
    assert worker.target == f"grpc://{worker.address}"
    assert (ps.target, store.target) == (ps.address, store.address)
    assert all(listens(server.address) for server in cluster.servers)
    assert "serving" in ps.log.text()
    assert store.run(os.getpid) == store.pid


def test_all_know_all(cluster: LocalCluster) -> None:
    assert cluster.run(lambda: current_task().cluster_spec) == [cluster.spec, cluster.spec]
    assert cluster.jobs["store"][0].run(lambda: current_task().cluster_spec) == cluster.spec


def test_sessions_reach_the_native_ones(cluster: LocalCluster) -> None:
    with device("/job:worker/task:1"):
        held = Variable(3.0, name="held")
        where = function(os.getpid)()
    with cluster.session() as session:
        session.run(held.initializer)
        value, pid = session.run([held + 1, where])
    assert (value, pid) == (4.0, cluster.workers[1].pid)


def test_reset_does_for_each_what_it_can(cluster: LocalCluster) -> None:
    with device("/job:worker/task:1"):
        held = Variable(3.0, name="held")
    with cluster.session() as session:
        session.run(held.initializer)
    before = {server.task.job: server.pid for server in cluster.servers}
    cluster.reset()
    after = {server.task.job: server.pid for server in cluster.servers}
    assert {job for job in before if before[job] == after[job]} == {"worker"}
    assert cluster.workers[1].variables() == {}
    assert all(listens(server.address) for server in cluster.servers)


def test_one_dies_and_comes_back(cluster: LocalCluster) -> None:
    for server in cluster.servers:
        server.kill()
        assert not listens(server.address)
        server.restart()
        assert listens(server.address)


def test_a_start_that_imports_may_take_longer() -> None:
    def seconds(**fields: Any) -> float | None:
        return LocalCluster(**fields)._start_deadline().seconds

    assert (seconds(), seconds(preload=["json"])) == (10.0, 60.0)
    assert seconds(preload=["json"], start_timeout=3) == 3.0


def test_the_longest_start_timeout_counts() -> None:
    slow = ServicerRuntime(ps=add_nothing)
    cluster = LocalCluster(runtime={"worker": "native", "ps": slow})
    longest = max(runtime.start_timeout for runtime in cluster._runtimes.values())
    assert cluster._start_deadline().seconds == longest


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ({"worker": "native"}, "runtime gives nothing for the tasks of job ps"),
        ({"worker": "native", "ps": "native", "chief": "native"}, "has not: worker, ps"),
        (
            {"worker": CommandRuntime(ps=["x"]), "ps": CommandRuntime(ps=["x"])},
            "no command for the tasks of job 'worker'",
        ),
        ({"worker": "native", "ps": ServicerRuntime(worker=add_nothing)}, "job 'ps'"),
    ],
)
def test_what_is_left_out(runtime: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        LocalCluster(workers=1, ps=1, runtime=runtime)
