"""Nothing of a step is left behind, and who comes late is told so at once."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import grpc
import numpy as np
import pytest

from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._proto.graph_pb2 import GraphDef, Status
from pytest_localcluster._proto.master_pb2 import ResetRequest
from pytest_localcluster._proto.worker_pb2 import (
    CleanupGraphRequest,
    RecvTensorRequest,
    RegisterGraphRequest,
    RunGraphRequest,
)
from pytest_localcluster.errors import (
    AbortedError,
    UnknownError,
)
from tests.native.conftest import (
    METADATA,
    Cluster,
    Failed,
    Shared,
    counted,
    gate,
    nothing_is_left,
    start,
)
from tests.native.nodes import call, const, placeholder

PS0, PS1, W0, W1 = "/job:ps/task:0", "/job:ps/task:1", "/job:worker/task:0", "/job:worker/task:1"


class CustomError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(f"number {number}")
        self.number = number


def test_a_step_that_is_over_answers_at_once(cluster: Cluster, shared: Shared) -> None:
    worker = cluster.worker(PS0)
    node = call("n", counted("n"), device=PS0.replace("/task", "/replica:0/task") + "/device:CPU:0")
    handle = worker.RegisterGraph(
        RegisterGraphRequest(graph_def=GraphDef(node=[node]), send=["n:0"]), metadata=METADATA
    ).graph_handle
    ask = RecvTensorRequest(step_id=99, key="n:0")
    status = Status(code=UnknownError.code, message="went wrong elsewhere")
    waiting = worker.PullTensor.future(ask, metadata=METADATA)
    streaming = worker.RecvTensor(ask, metadata=METADATA)
    assert poll(lambda: len(cluster.servers[PS0]._steps), Deadline(10))
    worker.CleanupGraph(CleanupGraphRequest(step_id=99, status=status), metadata=METADATA)
    # Who waited, and who comes late:
    assert waiting.result(timeout=10).status == status
    with pytest.raises(grpc.RpcError, match="went wrong elsewhere"):
        next(streaming)
    assert worker.PullTensor(ask, metadata=METADATA).status == status
    run = RunGraphRequest(graph_handle=handle, step_id=99)
    assert worker.RunGraph(run, metadata=METADATA).status == status
    assert shared.calls == []
    # The same after a step that went well.
    run = RunGraphRequest(graph_handle=handle, step_id=100)
    assert worker.RunGraph(run, metadata=METADATA).status.code == 0
    ask = RecvTensorRequest(step_id=100, key="n:0")
    assert worker.PullTensor(ask, metadata=METADATA).value.tensor.dtype
    for late in (
        worker.RunGraph(run, metadata=METADATA),
        worker.PullTensor(ask, metadata=METADATA),
    ):
        assert late.status.code == AbortedError.code
        assert late.status.message == "step 100 is over"
    assert shared.calls == [("n", PS0)]
    assert len(cluster.servers[PS0]._steps) == 0


def test_a_part_runs_once_in_a_step(cluster: Cluster, shared: Shared) -> None:
    worker = cluster.worker(PS0)
    node = call("n", gate, device=PS0.replace("/task", "/replica:0/task") + "/device:CPU:0")
    handle = worker.RegisterGraph(
        RegisterGraphRequest(graph_def=GraphDef(node=[node])), metadata=METADATA
    ).graph_handle
    run = RunGraphRequest(graph_handle=handle, step_id=5)
    first = worker.RunGraph.future(run, metadata=METADATA)
    shared.wait_for_operation()
    again = worker.RunGraph(run, metadata=METADATA)
    assert again.status.message == "step 5 runs here already"
    shared.opened.set()
    assert first.result(timeout=10).status.code == 0


def test_unknown_graphs_and_keys_are_clean_errors(cluster: Cluster) -> None:
    worker = cluster.worker(PS0)
    answer = worker.RunGraph(RunGraphRequest(graph_handle="x", step_id=1), metadata=METADATA)
    assert answer.status.code == AbortedError.code
    assert "/job:ps/task:0 does not know the graph 'x'" in answer.status.message
    node = const(
        "c", 1.0 * np.ones(1), device=PS0.replace("/task", "/replica:0/task") + "/device:CPU:0"
    )
    with_feed = RegisterGraphRequest(graph_def=GraphDef(node=[node]), feed=["x:0"])
    handle = worker.RegisterGraph(with_feed, metadata=METADATA).graph_handle
    run = RunGraphRequest(graph_handle=handle, step_id=2)
    assert "no value came for 'x:0'" in worker.RunGraph(run, metadata=METADATA).status.message
    bad = RegisterGraphRequest(graph_def=GraphDef(node=[node]), send=["d:0"])
    assert "'d' is asked for" in worker.RegisterGraph(bad, metadata=METADATA).status.message
    assert len(cluster.servers[PS0]._steps) == 0


def test_nothing_of_many_steps_is_left_behind(cluster: Cluster) -> None:
    def sometimes(x: Any) -> Any:
        if x % 3 == 1:
            raise CustomError(int(x))
        return x

    session = cluster.session()
    session.add(
        placeholder("x"),
        *(call(f"a{i}", np.add, "x:0", "x:0", device=(PS0, PS1)[i % 2]) for i in range(4)),
        call("some", sometimes, "x:0", device=PS1),
        *(call(f"b{i}", np.add, f"a{i}:0", "some:0", device=(W1, PS0)[i % 2]) for i in range(4)),
    )
    for number in range(150):
        fails = number % 3 == 1
        message = f"some raised CustomError: number {number}"
        with pytest.raises(Failed, match=message) if fails else nullcontext():
            session.run("b0:0", "b1:0", "b2:0", "b3:0", feeds={"x:0": np.int64(number)})
    assert nothing_is_left(cluster)
    for server in cluster.servers.values():
        assert len(server._steps._over) <= 151
    assert session.run("a0:0", feeds={"x:0": np.int64(1)}) == 2


@pytest.mark.parametrize("end", ["closed", "reset", "given up and closed"])
def test_what_is_registered_after_its_session_has_ended_is_taken_back(
    cluster: Cluster, shared: Shared, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    worker = cluster.servers[PS0]._worker
    register, registered = worker.register, threading.Event()

    def late(*args: Any, **kwargs: Any) -> str:
        gate()
        handle = register(*args, **kwargs)
        registered.set()
        return handle

    monkeypatch.setattr(worker, "register", late)
    session = cluster.session()
    session.add(call("n", counted("n"), device=PS0), call("m", np.abs, "n:0", device=W0))
    outcome = start(session, "m:0")
    shared.wait_for_operation()
    if end == "given up and closed":
        outcome.cancel()
    if end == "reset":
        cluster.master().Reset(ResetRequest(), metadata=METADATA)
    else:
        session.close()
    shared.opened.set()
    with pytest.raises((Failed, grpc.RpcError, grpc.FutureCancelledError)):
        outcome()
    assert registered.wait(10)
    servers = cluster.servers.values()
    assert poll(lambda: not any(server._worker._graphs for server in servers), Deadline(10))
    assert nothing_is_left(cluster)
    assert shared.calls == []


def test_what_came_after_a_tasks_own_reset_goes_with_its_masters(cluster: Cluster) -> None:
    """All tasks of a cluster are reset at once, in any order, while calls are on their way."""
    session = cluster.session()
    session.add(const("c", np.ones(1), device=PS0), call("m", np.negative, "c:0", device=W0))
    cluster.servers[PS0].reset()
    assert session.run("m:0") == -1
    assert cluster.servers[PS0]._worker._graphs
    cluster.servers[W0].reset()
    assert poll(lambda: not cluster.servers[PS0]._worker._graphs, Deadline(20))


def test_a_graph_is_not_kept_for_a_caller_that_has_hung_up(cluster: Cluster) -> None:
    class HungUp:
        def is_active(self) -> bool:
            return False

        def time_remaining(self) -> float:
            return 10.0

    worker = cluster.servers[PS0]._worker
    assert worker.RegisterGraph(RegisterGraphRequest(), HungUp()).graph_handle
    assert not worker._graphs


def test_memory_of_steps_that_are_over_is_bounded() -> None:
    from pytest_localcluster._runtimes.native import rendezvous

    steps = rendezvous.Steps()
    for number in range(10_000):
        steps.end(number, Status(code=1))
    assert len(steps) == 0
    assert len(steps._over) == rendezvous._REMEMBERED
