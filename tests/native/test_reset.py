"""Forgetting: reset, closed sessions, graphs that are not used again, peers."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._proto.master_pb2 import ResetRequest
from pytest_localcluster._spec import Task
from pytest_localcluster.errors import (
    AbortedError,
)
from tests.native.conftest import METADATA, Cluster, Failed, Session, Shared, counted, gate
from tests.native.nodes import call, const, variable

PS0, W0, W1 = "/job:ps/task:0", "/job:worker/task:0", "/job:worker/task:1"


def fill(session: Session) -> None:
    session.add(
        const("c", np.float64(1)),
        variable("init", "Assign", "c:0", of="v", device=PS0),
        variable("read", "Read", of="v", device=PS0),
        call("n", counted("n"), "read:0", device=W1),
    )
    session.run("init:0")
    session.run("n:0")


def test_reset_goes_back_to_the_state_after_start(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    fill(session)
    session.add(
        call("gate", gate, device=PS0), call("after", counted("after"), "gate:0", device=W1)
    )
    future = session.master.RunStep.future(session.request(["after:0"]), metadata=METADATA)
    shared.wait_for_operation()
    for server in cluster.servers.values():
        server.reset()
    status = future.result(timeout=10).status
    assert status.code == AbortedError.code
    assert "was reset" in status.message
    shared.opened.set()
    assert cluster.variables(PS0) == {}
    with pytest.raises(grpc.RpcError, match="unknown session handle: /job:worker/task:0") as caught:
        session.run("n:0")
    assert caught.value.code() == grpc.StatusCode.ABORTED
    servers = cluster.servers.values()
    assert not any(server._worker._graphs or server._master._sessions for server in servers)
    assert poll(lambda: not any(len(server._steps) for server in servers), Deadline(10))
    assert shared.calls == [("n", W1)]
    fill(cluster.session())


def test_master_reset_ends_its_sessions_and_clears_all_tasks(cluster: Cluster) -> None:
    mine, other = cluster.session(W0), cluster.session(W1)
    fill(mine)
    other.add(variable("read", "Read", of="v", device=PS0))
    assert other.run("read:0") == 1
    cluster.servers.pop("/job:ps/task:1").stop()  # one that is dead has nothing to clear
    cluster.master(W0).Reset(ResetRequest(), metadata=METADATA, timeout=10)
    assert cluster.variables(PS0) == {}
    with pytest.raises(grpc.RpcError, match="unknown session handle"):
        mine.run("read:0")
    with pytest.raises(Failed, match="'v' is not initialised"):
        other.run("read:0")


def test_closing_a_session_takes_its_graphs_back(cluster: Cluster) -> None:
    session = cluster.session()
    fill(session)
    assert all(cluster.servers[name]._worker._graphs for name in (W0, PS0, W1))
    session.close()
    assert not any(server._worker._graphs for server in cluster.servers.values())
    assert cluster.variables(PS0) == {"v": 1}


def test_kinds_of_steps_that_are_not_used_again_are_taken_back(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_localcluster._runtimes.native import session as session_module

    monkeypatch.setattr(session_module, "_PLANS", 3)
    session = cluster.session()
    session.add(*(call(f"n{i}", counted(f"n{i}"), device=PS0) for i in range(10)))
    for i in range(10):
        session.run("n0:0")
        session.run(f"n{i}:0")
    assert len(cluster.servers[PS0]._worker._graphs) == 3
    assert session.run("n0:0") == 1


def test_forgetting_a_peer_drops_its_connection_and_registrations(cluster: Cluster) -> None:
    session = cluster.session()
    fill(session)
    server = cluster.servers[W0]
    assert cluster.address(PS0) in server._peers._open
    server.forget(Task.parse(PS0))
    assert cluster.address(PS0) not in server._peers._open
    assert session.run("n:0") == 1
