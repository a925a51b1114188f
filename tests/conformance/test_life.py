"""Start, stop, restart: what is there afterwards, and what is gone."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest

from pytest_localcluster import ClusterError, ClusterSpec, LocalCluster, ServerExited, Task
from pytest_localcluster._clock import Deadline, poll
from tests.conformance.conftest import MakeCluster, works
from tests.reach import listens

FDS = Path("/proc/self/fd")


def ended(runtime: str) -> int:
    """Return how a task ends that was asked to."""
    return -signal.SIGTERM if runtime == "command" else 0


def test_servers_come_in_order_and_tell_who_they_are(
    make_cluster: MakeCluster, runtime: str
) -> None:
    cluster = make_cluster(workers=2, ps=1, jobs={"chief": 1})
    names = ["/job:worker/task:0", "/job:worker/task:1", "/job:ps/task:0", "/job:chief/task:0"]
    assert [str(server.task) for server in cluster.servers] == names
    workers, ps = cluster
    assert workers == cluster.workers == cluster.jobs["worker"] == cluster.servers[:2]
    assert ps == cluster.ps
    assert cluster.jobs["chief"] == cluster.servers[3:]
    for server in cluster.servers:
        assert server.cluster is cluster
        assert server.protocol == "grpc"
        assert (server.job_name, server.task_index) == (server.task.job, server.task.index)
        scheme = "grpc://" if runtime in ("native", "tensorflow") else ""
        assert server.target == f"{scheme}{server.address}"
        assert server.address == cluster.spec.task_address(server.job_name, server.task_index)
        assert server.is_alive()
        assert server.exitcode is None
        assert works(server)


def test_server_def_is_the_ancestors(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=1, ps=0)
    server_def = cluster.workers[0].server_def
    assert [job.name for job in server_def.cluster.job] == ["ps", "worker"]
    assert dict(server_def.cluster.job[1].tasks) == {0: cluster.workers[0].address}
    assert (server_def.job_name, server_def.task_index) == ("worker", 0)
    assert (server_def.protocol, server_def.port, server_def.replica) == ("grpc", 0, 0)
    assert not server_def.HasField("default_session_config")
    assert cluster.workers[0].config is None
    assert ClusterSpec(cluster.spec.as_dict()) == cluster.spec


def test_nothing_is_left_after_stop(make_cluster: MakeCluster, launcher: str, runtime: str) -> None:
    make_cluster(workers=2, ps=1).stop()  # what the first start brings for good is there now
    gc.collect()  # and what earlier tests have left to be collected is gone
    before = sorted(fd.name for fd in FDS.iterdir()) if FDS.exists() else []
    cluster = make_cluster(workers=2, ps=1)
    pids, folder = [server.pid for server in cluster.servers], cluster.servers[0].log.path.parent
    addresses = [server.address for server in cluster.servers]
    if runtime != "command":
        cluster.run(print, "words")
    cluster.stop()
    cluster.stop()
    assert not any(listens(address) for address in addresses)
    assert not folder.exists()
    assert {server.exitcode for server in cluster.servers} == {ended(runtime)}
    if before:
        # A thread of gRPC's may close the last ones a moment after the server has stopped.
        assert poll(lambda: sorted(fd.name for fd in FDS.iterdir()) == before, Deadline(20))
    if launcher != "thread":  # the nodes are on this machine
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid or 0, 0)


def test_an_empty_cluster_starts_and_stops(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=0, ps=0)
    assert list(cluster) == [[], []]
    assert cluster.run(print) == []
    cluster.reset()


def test_a_stopped_cluster_says_so_and_starts_again(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=1, ps=1)
    with pytest.raises(ClusterError, match=r"this cluster runs already\n.*stop\(\) it first"):
        cluster.start()
    worker = cluster.workers[0]
    cluster.stop()
    with pytest.raises(ClusterError, match="does not run: it cannot run a function"):
        cluster.run(print)
    with pytest.raises(
        ServerExited, match="/job:worker/task:0 is stopped; there is nothing to run print in"
    ):
        worker.run(print)
    assert all(works(server) for server in cluster.start().servers)


def test_statuses_show_in_reprs(cluster: LocalCluster, runtime: str) -> None:
    worker = cluster.workers[0]
    assert (
        repr(worker)
        == f"<Server /job:worker/task:0 at {worker.address}: running, pid {worker.pid}>"
    )
    assert repr(cluster) == "<LocalCluster of 2 worker, 1 ps: running>"
    worker.stop()
    status = f"stopped, exit code {ended(runtime)}"
    assert repr(worker) == f"<Server /job:worker/task:0 at {worker.address}: {status}>"
    cluster.stop()
    assert repr(cluster) == "<LocalCluster of 2 worker, 1 ps: not running>"


def test_a_stopped_server_keeps_its_address_and_starts_again(cluster: LocalCluster) -> None:
    ps = cluster.ps[0]
    address = ps.address
    ps.stop()
    assert not ps.is_alive()
    assert not listens(address)
    assert ps.unexpected_death() is None
    ps.restart()
    assert ps.is_alive()
    assert ps.address == address
    assert listens(address)
    ps.restart()
    assert works(ps)
    pid = ps.pid
    ps.start()
    assert ps.pid == pid, "it runs already"
    ps.stop()
    ps.start()
    assert works(ps)


def test_a_token_shows_nowhere(cluster: LocalCluster) -> None:
    token = cluster._token
    server = cluster.ps[0]
    shown = [
        repr(server),
        repr(cluster),
        repr(cluster.config),
        repr(server._life.place.assignment),
        server.log.text(),
    ]
    assert not any(token in text for text in shown)
    assert token not in repr(server._life.place.assignment.context)


def test_tasks_can_be_found_by_name(cluster: LocalCluster) -> None:
    assert cluster._find("/job:ps/task:0") is cluster.ps[0]
    assert cluster._find(Task("ps", 0)) is cluster.ps[0]
    with pytest.raises(
        ValueError, match=r"(?s)has no task /job:ps/task:9.*its tasks are /job:worker/task:0,"
    ):
        cluster._find("/job:ps/task:9")
