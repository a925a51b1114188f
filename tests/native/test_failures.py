"""However a step fails, it ends everywhere, nothing stays blocked, and the next one works."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import grpc
import numpy as np
import pytest

from pytest_localcluster import _pickling
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._context import current_task
from pytest_localcluster._proto.graph_pb2 import GraphDef, Status
from pytest_localcluster._proto.worker_pb2 import (
    CleanupGraphRequest,
    RecvTensorRequest,
    RegisterGraphRequest,
    RunGraphRequest,
)
from pytest_localcluster._spec import Task
from pytest_localcluster.errors import (
    AbortedError,
    CancelledError,
    DeadlineExceededError,
    OutOfRangeError,
    StopError,
    UnavailableError,
    UnknownError,
)
from tests.native.conftest import (
    METADATA,
    Cluster,
    Failed,
    Session,
    Shared,
    call,
    const,
    counted,
    gate,
    placeholder,
    variable,
)

PS0, PS1, W0, W1 = "/job:ps/task:0", "/job:ps/task:1", "/job:worker/task:0", "/job:worker/task:1"


def run_in_thread(session: Session, *fetches: str, timeout: float | None = None) -> Any:
    """Start a step; return a function that waits for it and raises its failure."""
    future = session.master.RunStep.future(
        session.request(fetches), metadata=METADATA, timeout=timeout
    )

    def outcome() -> Any:
        response = future.result(timeout=10)
        if response.status.code:
            raise Failed(response)
        return response

    outcome.cancel = future.cancel  # type: ignore[attr-defined]  # a handle that is a function
    return outcome


def nothing_is_left(cluster: Cluster) -> bool:
    """Wait until no task holds anything of any step."""
    return poll(
        lambda: all(
            not len(server._steps) and not server._site.running
            for server in cluster.servers.values()
        ),
        Deadline(10),
    )


class CustomError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(f"number {number}")
        self.number = number


def fail(*_: Any) -> None:
    raise CustomError(7)


def chain(*functions: tuple[str, Callable[..., Any]]) -> list[Any]:
    """Operations, each on its own device and with the one before as its input."""
    return [
        call(f"n{i}", function, *([f"n{i - 1}:0"] if i else []), device=device)
        for i, (device, function) in enumerate(functions)
    ]


@pytest.mark.parametrize("culprit", [W0, PS0, W1])
def test_what_an_operation_raises_comes_back_whole(
    cluster: Cluster, culprit: str, shared: Shared
) -> None:
    session = cluster.session()
    session.add(
        *chain((PS1, counted("a")), (culprit, fail), (PS1, counted("b")), (W1, counted("c")))
    )
    for _ in range(3):
        with pytest.raises(Failed, match="^n1 raised CustomError: number 7$") as caught:
            session.run("n3:0")
        status = caught.value.status
        assert status.code == UnknownError.code
        assert status.op == "n1"
        assert status.device == culprit.replace("/task", "/replica:0/task") + "/device:CPU:0"
        error = _pickling.load_exception(status.exception, status.traceback)
        assert isinstance(error, CustomError)
        assert error.number == 7
        assert "raise CustomError(7)" in status.traceback
        assert nothing_is_left(cluster)
    assert {name for name, _ in shared.calls} == {"a"}
    assert session.run("n0:0") == 1


def test_errors_of_our_own_keep_their_code(cluster: Cluster) -> None:
    def end(*_: Any) -> None:
        raise OutOfRangeError("no more data")

    session = cluster.session()
    session.add(*chain((PS0, end), (W1, counted("b"))))
    with pytest.raises(Failed, match="^no more data$") as caught:
        session.run("n1:0")
    assert caught.value.code == OutOfRangeError.code
    assert caught.value.status.op == "n0"


def test_exits_and_exceptions_that_cannot_be_pickled_or_printed(cluster: Cluster) -> None:
    class Stubborn(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("no")

        def __str__(self) -> str:
            raise TypeError("no")

    def stubborn() -> None:
        raise Stubborn

    def leave() -> None:
        raise SystemExit(3)

    session = cluster.session()
    session.add(call("stubborn", stubborn, device=PS0), call("leave", leave, device=PS0))
    with pytest.raises(
        Failed, match="stubborn raised .*Stubborn: .*its text cannot be had"
    ) as caught:
        session.run("stubborn:0")
    assert caught.value.status.exception == b""
    assert "raise Stubborn" in caught.value.status.traceback
    with pytest.raises(Failed, match="leave raised SystemExit: 3"):
        session.run("leave:0")


@pytest.mark.parametrize("stuck", [W0, PS0, W1])
def test_a_failure_does_not_wait_for_an_operation_that_is_stuck(
    cluster: Cluster, stuck: str, shared: Shared
) -> None:
    def fail_later(*_: Any) -> None:
        from sys import modules

        modules["tests.native.conftest"]._shared.wait_for_operation()
        raise CustomError(1)

    session = cluster.session()
    session.add(
        call("stuck", gate, device=stuck),
        call("after", np.negative, "stuck:0", device=W1),
        call("failing", fail_later, device=PS1),
        call("never", counted("never"), "stuck:0", device=stuck),
    )
    with pytest.raises(Failed, match="failing raised CustomError: number 1"):
        session.run("after:0", "failing:0", "never:0")
    add_ok(session)
    assert session.run("ok:0") == 1
    shared.opened.set()
    assert nothing_is_left(cluster)
    assert shared.calls == []


def add_ok(session: Session) -> None:
    session.add(const("c", np.int64(-1)), call("ok", np.negative, "c:0", device=PS0))


@pytest.mark.parametrize("stuck", [W0, PS0])
@pytest.mark.parametrize("how", ["timeout", "config"])
def test_a_step_ends_when_its_time_is_up_and_says_what_did_not(
    cluster: Cluster, stuck: str, how: str, shared: Shared
) -> None:
    session = cluster.session(operation_timeout_in_ms=300 if how == "config" else 0)
    session.add(
        call("endless", gate, device=stuck), call("after", np.negative, "endless:0", device=W1)
    )
    with pytest.raises(
        Failed, match=r"the step did not end within 0.\d+ s; not finished: "
    ) as caught:
        session.run("after:0", timeout=0.3 if how == "timeout" else None)
    assert caught.value.code == DeadlineExceededError.code
    assert stuck in str(caught.value)
    assert "(running: 'endless')" in str(caught.value)
    add_ok(session)
    assert session.run("ok:0") == 1
    shared.opened.set()
    assert nothing_is_left(cluster)


def test_a_client_that_hangs_up_ends_the_step_everywhere(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    session.add(*chain((PS0, gate), (PS1, counted("b")), (W1, counted("c"))))
    outcome = run_in_thread(session, "n2:0")
    shared.wait_for_operation()
    outcome.cancel()
    assert poll(
        lambda: all(cluster.servers[name]._steps._over for name in (PS0, PS1)), Deadline(10)
    )
    shared.opened.set()
    assert nothing_is_left(cluster)
    assert shared.calls == []


def test_closing_a_session_cancels_its_steps_and_no_others(
    cluster: Cluster, shared: Shared
) -> None:
    one, two = cluster.session(), cluster.session()
    for session in (one, two):
        session.add(*chain((PS0, gate), (W1, np.negative)))
    first, second = run_in_thread(one, "n1:0"), run_in_thread(two, "n1:0")
    shared.wait_for_operation()
    shared.wait_for_operation()
    one.close()
    with pytest.raises(Failed, match="the session was closed") as caught:
        first()
    assert caught.value.code == CancelledError.code
    shared.opened.set()
    assert second().status.code == 0
    with pytest.raises(grpc.RpcError, match="unknown session handle"):
        one.run("n1:0")
    with pytest.raises(grpc.RpcError, match="unknown session handle"):
        one.close()


def test_a_dead_task_is_named_at_once_and_used_again_when_it_is_back(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(*chain((PS0, lambda: str(current_task().task)), (W1, np.char.upper)))
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
    session.add(*chain((PS0, lambda: str(current_task().task)), (W1, np.char.upper)))
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
    assert peers.call(cluster.address(PS0), "GetStatus", _status_request()).device_attributes
    with pytest.raises(
        Failed, match="/job:ps/task:0 does not know the graph .* run the step again"
    ):
        session.run("n1:0")
    assert shared.calls == [("a", PS0)]  # nothing ran twice
    assert session.run("n1:0") == -1


def _status_request() -> Any:
    from pytest_localcluster._proto.worker_pb2 import GetStatusRequest

    return GetStatusRequest()


@pytest.mark.parametrize("role", ["the one that runs", "the one that waits"])
def test_a_task_that_dies_in_the_middle_ends_the_step(
    cluster: Cluster, shared: Shared, role: str
) -> None:
    session = cluster.session()
    session.add(*chain((PS0, gate), (PS1, np.negative), (W1, np.negative)))
    outcome = run_in_thread(session, "n2:0")
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
    assert session.run("n2:0") == 1


def test_a_master_that_dies_ends_its_steps_on_other_tasks(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    session.add(*chain((PS0, gate), (PS1, np.negative), (W1, np.negative)))
    outcome = run_in_thread(session, "n2:0")
    shared.wait_for_operation()
    others = [cluster.servers[name] for name in (PS0, PS1, W1)]
    assert poll(lambda: all(len(server._steps) for server in others), Deadline(10))
    cluster.servers.pop(W0).stop()
    with pytest.raises(Exception, match="stopping|Cancelling all calls|Socket closed"):
        outcome()
    assert poll(lambda: all(server._steps._over for server in others), Deadline(10))
    shared.opened.set()
    assert nothing_is_left(cluster)


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


def test_memory_of_steps_that_are_over_is_bounded() -> None:
    from pytest_localcluster._runtimes.native import rendezvous

    steps = rendezvous.Steps()
    for number in range(10_000):
        steps.end(number, Status(code=1))
    assert len(steps) == 0
    assert len(steps._over) == rendezvous._REMEMBERED


def test_no_operation_of_a_failed_step_starts_after_its_failure_was_told(
    cluster: Cluster, shared: Shared
) -> None:
    session = cluster.session()
    session.add(
        const("zero", np.float64(0)),
        const("one", np.float64(1)),
        variable("init", "Assign", "zero:0", of="v", device=PS0),
        variable("read", "Read", of="v", device=PS0),
        call("gate", gate, device=W1),
        variable("add", "AssignAdd", "one:0", of="v", device=PS0, after=["gate"]),
        call("failing", lambda: _fail_when_gate_is_reached(), device=PS1),
    )
    session.run("init:0")
    with pytest.raises(Failed, match="number 3"):
        session.run("add:0", "failing:0")
    shared.opened.set()
    assert nothing_is_left(cluster)
    assert session.run("read:0") == 0


def _fail_when_gate_is_reached() -> None:
    from sys import modules

    modules["tests.native.conftest"]._shared.wait_for_operation()
    raise CustomError(3)


def test_stuck_steps_do_not_starve_others(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    session.add(*chain((PS0, gate), (PS1, np.negative), (W1, np.negative)))
    outcomes = [run_in_thread(session, "n2:0") for _ in range(40)]
    for _ in outcomes:
        shared.wait_for_operation()
    add_ok(session)
    assert session.run("ok:0", timeout=10) == 1
    assert cluster.variables(PS0) == {}
    shared.opened.set()
    assert [outcome().status.code for outcome in outcomes] == [0] * 40
