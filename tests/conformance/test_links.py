"""Faults of the network between tasks: what each task sees of the others, and what reaches it."""

from __future__ import annotations

import json
import os
import socket
import time

import pytest

from pytest_localcluster import ClusterSpec, LocalCluster, Server, Task, current_task
from tests.conformance.conftest import MakeCluster, works
from tests.reach import listens

BRIEFLY = 0.4


@pytest.fixture(autouse=True)
def has_links(launcher: str) -> None:
    """Skip where there can be none."""
    if launcher == "ray":
        pytest.skip("links are relays on this machine; tests/ray cuts the network between nodes")


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> LocalCluster:
    return make_cluster(workers=2, ps=1, links=True)


def probe(address: str, seconds: float) -> tuple[str, float]:
    """Dial, and tell what comes: an answer, be it an end, or not; and after how many seconds."""
    host, _, port = address.rpartition(":")
    began = time.monotonic()
    try:
        with socket.create_connection((host, int(port)), seconds) as connection:
            connection.recv(1)
    except TimeoutError:
        found = "silence"
    except ConnectionRefusedError:
        found = "refused"
    else:
        found = "answer"
    return found, time.monotonic() - began


def seen_by(server: Server) -> ClusterSpec:
    return ClusterSpec.from_tf_config(server.cluster.environ(server)["TF_CONFIG"])


def reach(here: Server, there: Server, seconds: float = 20) -> tuple[str, float]:
    """Probe one task from another; where that runs no Python, from here by the same link."""
    address = seen_by(here).task_address(there.job_name, there.task_index)
    assert address != there.address
    if here.cluster.config.launcher == "process" and not here._life.living("ask").program:
        return here.run(probe, address, seconds, timeout=60)
    return probe(address, seconds)


def reaches(here: Server, there: Server) -> bool:
    return reach(here, there)[0] == "answer"


def test_each_task_sees_itself_where_it_is_and_the_others_by_links(cluster: LocalCluster) -> None:
    real = cluster.spec
    links = []
    for server in cluster.servers:
        seen = seen_by(server)
        for task in real.tasks:
            address = seen.task_address(task.job, task.index)
            if task == server.task:
                assert address == server.address
            else:
                links.append(address)
        assert reaches(server, next(s for s in cluster.servers if s is not server))
        defs = {job.name: dict(job.tasks) for job in server.server_def.cluster.job}
        assert defs["ps"] == {0: cluster.ps[0].address}, "the test is never led through links"
    assert len(set(links)) == 6
    assert not {*links} & {address for job in real.as_dict().values() for address in job}
    assert json.loads(cluster.environ()["TF_CONFIG"])["cluster"] == real.as_dict()
    assert all(listens(server.address) for server in cluster.servers)


@pytest.mark.usefixtures("python")
def test_code_in_a_task_is_told_of_links(cluster: LocalCluster) -> None:
    worker = cluster.workers[0]
    seen = worker.run(lambda: current_task().cluster_spec)
    assert seen == seen_by(worker)
    assert worker.run(lambda: current_task().target).endswith(worker.address)
    if cluster.config.launcher == "process":
        assert ClusterSpec.from_tf_config(worker.run(lambda: os.environ["TF_CONFIG"])) == seen


def test_nothing_passes_a_partition(cluster: LocalCluster) -> None:
    (one, other), (ps,) = cluster
    with cluster.partition(one, ps):
        assert reach(one, ps, BRIEFLY)[0] == "silence"
        assert reach(ps, one, BRIEFLY)[0] == "silence"
        assert reaches(other, ps)
        assert reaches(one, other)
        assert listens(ps.address), "the test itself goes directly"
        assert works(ps)
    assert reaches(one, ps)
    assert reaches(ps, one)


def test_a_dropped_connection_is_refused(cluster: LocalCluster) -> None:
    (one, other), (ps,) = cluster
    cluster.drop(ps.task, "/job:worker/task:0/device:CPU:0")
    assert reach(one, ps)[0] == "refused"
    assert reach(ps, one)[0] == "refused"
    assert reaches(other, ps)
    cluster.heal()
    assert reaches(one, ps)
    assert reaches(ps, one)


def test_a_delayed_answer_comes_later(cluster: LocalCluster) -> None:
    (one, _), (ps,) = cluster
    with cluster.delay("worker", "ps", 0.3):
        found, seconds = reach(one, ps)
        assert found == "answer"
        assert seconds >= 0.3


def test_faults_stay_through_a_restart_and_go_with_a_reset(cluster: LocalCluster) -> None:
    (one, other), (ps,) = cluster
    fault = cluster.partition(one, ps)
    ps.restart()
    assert reaches(other, ps), "the link leads to the new one"
    assert reach(one, ps, BRIEFLY)[0] == "silence"
    assert "in force" in repr(fault)
    cluster.reset()
    assert "healed" in repr(fault)
    assert all(works(server) for server in cluster.servers)
    assert reaches(one, ps)


def test_a_cluster_that_is_stopped_amid_faults_starts_without(cluster: LocalCluster) -> None:
    (one, _), (ps,) = cluster
    with cluster.partition(one, ps), cluster.delay(one, ps, 60):
        cluster.stop()
    assert cluster.stop_seconds is not None
    assert cluster.stop_seconds < cluster.config.stop_timeout
    cluster.start()
    (one, _), (ps,) = cluster
    assert reaches(one, ps)


def test_links_of_one_task_and_of_none(make_cluster: MakeCluster) -> None:
    with make_cluster(workers=1, ps=0, links=True) as cluster:
        assert seen_by(cluster.workers[0]).as_dict() == {"worker": [cluster.workers[0].address]}
        cluster.heal()
    with make_cluster(workers=0, ps=0, links=True) as cluster:
        assert cluster.spec.tasks == []


def test_a_task_is_seen_under_its_own_name_by_each(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=1, ps=0, jobs={"chief": 1}, links=True)
    (chief,) = cluster.jobs["chief"]
    assert reaches(cluster.workers[0], chief)
    with cluster.drop("chief", "worker"):
        assert reach(cluster.workers[0], chief)[0] == "refused"
    assert seen_by(chief).tasks == [Task("worker", 0), Task("chief", 0)]
