"""Tasks that die and come back, before a step and in the middle of one."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._context import current_task
from pytest_localcluster._proto.graph_pb2 import Status
from pytest_localcluster._proto.worker_pb2 import GetStatusRequest, RunGraphResponse
from pytest_localcluster._spec import Task
from pytest_localcluster.errors import (
    CancelledError,
    StopError,
    UnavailableError,
)
from tests.native.conftest import (
    Cluster,
    Failed,
    Shared,
    counted,
    gate,
    nothing_is_left,
    start,
)
from tests.native.nodes import chain

PS0, PS1, W0, W1 = "/job:ps/task:0", "/job:ps/task:1", "/job:worker/task:0", "/job:worker/task:1"


def test_a_dead_task_is_named_at_once_and_used_again_when_it_is_back(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(*chain((PS0, lambda: str(current_task().task)), (W1, str.upper)))
    assert session.run("n1:0") == PS0.upper()
    cluster.servers.pop(PS0).stop()
    for _ in range(3):
        with pytest.raises(
            Failed, match="^/job:ps/task:0 at localhost:.* could not be reached"
        ) as caught:
            session.run("n1:0")
        assert caught.value.code == UnavailableError.code
        assert "To fix this: see whether it is alive" in str(caught.value)
    cluster.start(PS0)
    assert session.run("n1:0") == PS0.upper()


def test_a_peer_that_restarts_between_steps_is_forgotten(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(*chain((PS0, lambda: str(current_task().task)), (W1, str.upper)))
    assert session.run("n1:0") == PS0.upper()
    cluster.servers.pop(PS0).stop()
    cluster.start(PS0)
    for name, server in cluster.servers.items():
        if name != PS0:
            server.forget(Task.parse(PS0))
    assert session.run("n1:0") == PS0.upper()


def test_a_restart_that_nobody_told_of_costs_one_step(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    session.add(*chain((PS0, counted("a")), (W1, np.negative)))
    session.run("n1:0")
    # The master keeps its connection, as it would across a restart that was quick.
    peers = cluster.servers[W0]._peers
    cluster.servers.pop(PS0).stop()
    cluster.start(PS0)
    assert peers.call(cluster.address(PS0), "GetStatus", GetStatusRequest()).device_attributes
    with pytest.raises(
        Failed, match="/job:ps/task:0 does not know the graph .* run the step again"
    ):
        session.run("n1:0")
    assert shared.calls == [("a", PS0)]  # nothing ran twice
    assert session.run("n1:0") == -1


@pytest.mark.parametrize("role", ["the one that runs", "the one that waits"])
def test_a_task_that_dies_in_the_middle_ends_the_step(
    cluster: Cluster, shared: Shared, role: str
) -> None:
    session = cluster.session()
    session.add(*chain((PS0, gate), (PS1, np.negative), (W1, np.negative)))
    outcome = start(session, "n2:0")
    shared.wait_for_operation()
    victim = PS0 if role == "the one that runs" else PS1
    server = cluster.servers.pop(victim)
    if victim == PS0:
        with pytest.raises(StopError, match="has stopped serving, but not everything") as stopped:
            server.stop()
        assert stopped.value.survivors == ("n0 on /job:ps/replica:0/task:0/device:CPU:0",)
        assert "still running: n0 on /job:ps" in str(stopped.value)
    else:
        server.stop()
    with pytest.raises(Failed, match=f"{victim}") as caught:
        outcome()
    assert caught.value.code == UnavailableError.code
    shared.opened.set()
    assert nothing_is_left(cluster)
    cluster.start(victim)
    for other in cluster.servers.values():  # as a cluster does: one may be dialling
        other.forget(Task.parse(victim))
    assert session.run("n2:0") == 1


def test_who_lost_a_task_is_believed_before_who_only_gave_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = cluster.session()
    session.add(*chain((PS0, np.negative), (PS1, np.negative), (W0, np.negative)))
    peers, gave_up = cluster.servers[W0]._peers, threading.Event()
    call = peers.call

    def call_of_a_torn_step(address: str, method: str, *args: Any) -> Any:
        if method != "RunGraph":
            return call(address, method, *args)
        if address == cluster.address(PS1):
            # It has seen that PS0 has ended the step, which PS0 did for its master hung up.
            gave_up.set()
            return RunGraphResponse(status=Status(code=CancelledError.code, message="given up"))
        assert gave_up.wait(10)
        raise UnavailableError("the connection was cut")

    monkeypatch.setattr(peers, "call", call_of_a_torn_step)
    with pytest.raises(Failed, match="^the connection was cut$") as caught:
        session.run("n2:0")
    assert caught.value.code == UnavailableError.code


def test_a_master_that_dies_ends_its_steps_on_other_tasks(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    session.add(*chain((PS0, gate), (PS1, np.negative), (W1, np.negative)))
    outcome = start(session, "n2:0")
    shared.wait_for_operation()
    others = [cluster.servers[name] for name in (PS0, PS1, W1)]
    assert poll(lambda: all(len(server._steps) for server in others), Deadline(10))
    cluster.servers.pop(W0).stop()
    with pytest.raises(Exception, match="stopping|Cancelling all calls|Socket closed"):
        outcome()
    assert poll(lambda: all(server._steps._over for server in others), Deadline(10))
    shared.opened.set()
    assert nothing_is_left(cluster)
