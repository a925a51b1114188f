"""Handles in a task: what of them is there, what is refused, and that they come back."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from pytest_localcluster import LocalCluster, Server, ServicerRuntime, Session, UnsupportedError
from pytest_localcluster.errors import ClusterError


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=1, ps=2) as cluster:
        yield cluster


def test_what_is_there(cluster: LocalCluster) -> None:
    workers, ps = cluster

    def look(view: Any) -> list[object]:
        first, second = view
        return [
            view.spec,
            [server.address for server in first + second],
            [(s.task, s.target, s.job_name, s.task_index, s.protocol) for s in view.servers],
            {job: len(servers) for job, servers in view.jobs.items()},
            ps[1].address,
            ps[1].cluster is view,
            view.ps[1] is ps[1],
            view.log_dir,
        ]

    servers = [*workers, *ps]
    assert cluster.workers[0].run(look, cluster) == [
        cluster.spec,
        [s.address for s in servers],
        [(s.task, s.target, s.job_name, s.task_index, s.protocol) for s in servers],
        {"worker": 1, "ps": 2},
        ps[1].address,
        True,
        True,
        cluster.log_dir,
    ]


def test_sessions_and_channels(cluster: LocalCluster) -> None:
    with cluster.session() as session:

        def use(ps: Any, session: Any) -> list[object]:
            found: list[object] = []
            for open_one in (
                lambda: cluster.session(),
                lambda: cluster.session("/job:ps/task:1"),
                lambda: cluster.session(cluster.ps[1]),
                lambda: ps[1].session(),
                lambda: session.session(),
            ):
                with open_one() as one:
                    found.append(len(one.list_devices()))
            with cluster.ps[0].channel() as channel:
                grpc.channel_ready_future(channel).result(20)
            return found

        assert cluster.run(use, cluster.ps, session) == [[3] * 5]


def test_logs(cluster: LocalCluster) -> None:
    cluster.ps[0].run(print, "hello")
    assert "hello" in cluster.workers[0].run(lambda: cluster.ps[0].log.text())


def test_they_come_back_as_the_handles(cluster: LocalCluster) -> None:
    with cluster.session() as session:
        back = cluster.workers[0].run(lambda: [cluster, cluster.ps[1], session])
        assert back[0] is cluster
        assert back[1] is cluster.ps[1]
        assert back[2] is session
    assert copy.deepcopy(cluster) is cluster
    assert pickle.loads(pickle.dumps(cluster.ps[0])) is cluster.ps[0]


def verbs(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]


def test_whatever_else_it_can_do_is_refused(cluster: LocalCluster) -> None:
    with cluster.session() as session:

        def refused(handle: Any, names: list[str]) -> dict[str, str]:
            found = {}
            for name in names:
                try:
                    value = getattr(handle, name)
                    if callable(value) and name not in ("session", "channel"):
                        value()
                except UnsupportedError as error:
                    found[name] = str(error)
            return found

        run = cluster.workers[0].run
        of_cluster = run(refused, cluster, [*verbs(LocalCluster), "config"])
        of_server = run(refused, cluster.ps[0], verbs(Server))
        of_session = run(refused, session, verbs(Session))
    assert {"run", "start", "stop", "reset", "restart_dead", "partition", "config"} <= {*of_cluster}
    assert {"run", "submit", "kill", "restart", "pid", "is_alive", "server_def"} <= {*of_server}
    assert {"run", "close", "make_callable", "list_devices"} <= {*of_session}
    assert not {"spec", "servers", "workers", "ps", "jobs", "session"} & {*of_cluster}
    assert not {"task", "address", "target", "log", "session", "channel"} & {*of_server}
    assert of_server["kill"] == (
        "kill() of /job:ps/task:0 is only for the test process, and this is a view in another one\n"
        f"  at {cluster.ps[0].address}\n"
        "  To fix this: use kill() in the test, on the handle itself; a view has addresses, "
        "spec, log, session() and channel()"
    )
    assert (
        "open another one with session(), and build the graph in the function" in of_session["run"]
    )


def test_a_misspelt_name_is_no_attribute(cluster: LocalCluster) -> None:
    with pytest.raises(AttributeError, match="'ServerView' object has no attribute 'adress'"):
        cluster.run(lambda: cluster.ps[0].adress)  # type: ignore[attr-defined]
    with pytest.raises(ClusterError, match="has no task '/job:ps/task:7'; its tasks are "):
        cluster.run(lambda: cluster.session("/job:ps/task:7"))


def test_a_with_block_is_refused(cluster: LocalCluster) -> None:
    def enter() -> None:
        with cluster:
            pass

    with pytest.raises(
        UnsupportedError, match="`with` of the cluster is only for the test process"
    ):
        cluster.run(enter)


def test_reprs_say_what_they_are(cluster: LocalCluster) -> None:
    with cluster.session() as session:
        shown = cluster.workers[0].run(lambda: [repr(h) for h in (cluster, cluster.ps[0], session)])
    assert shown == [
        "<view of a LocalCluster of 1 worker, 2 ps>",
        f"<view of a Server /job:ps/task:0 at {cluster.ps[0].address}>",
        f"<view of a Session to {cluster.workers[0].target}>",
    ]


def test_one_of_another_cluster(cluster: LocalCluster) -> None:
    with LocalCluster(workers=1, ps=0) as other:
        assert cluster.run(lambda: len(other.session().list_devices())) == [1]

    def look() -> tuple[str, list[object]]:
        return repr(other), [server.task for server in other.servers]

    assert cluster.run(look) == [("<view of a LocalCluster of 1 worker>", [other.servers[0].task])]
    with pytest.raises(ClusterError, match="did not run when it was sent here"):
        cluster.run(lambda: other.spec)


def test_no_session_where_there_is_none() -> None:
    runtime = {"worker": "native", "ps": ServicerRuntime(ps=lambda server, task: None)}
    with (
        LocalCluster(workers=1, ps=1, runtime=runtime) as cluster,
        pytest.raises(UnsupportedError, match="no Session can be opened to /job:ps/task:0"),
    ):
        cluster.run(lambda: cluster.session("/job:ps/task:0"))


def test_the_token_is_in_no_repr(cluster: LocalCluster) -> None:
    token = cluster.environ()["PYTEST_LOCALCLUSTER_TOKEN"]
    assert token not in cluster.workers[0].run(lambda: repr(vars(cluster)))
