"""What is sent that nobody should send is refused, in words, and leaves nothing behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._proto.graph_pb2 import (
    GraphDef,
    NamedValue,
    Status,
    TensorProto,
    Value,
)
from pytest_localcluster._proto.worker_pb2 import (
    CleanupGraphRequest,
    RecvTensorRequest,
    RegisterGraphRequest,
    RunGraphRequest,
    RunGraphResponse,
)
from pytest_localcluster._runtimes.native.rendezvous import Steps
from pytest_localcluster._spec import Task
from pytest_localcluster._tensors import value_to_proto
from pytest_localcluster.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    UnknownError,
)
from tests.native.conftest import (
    METADATA,
    Cluster,
    Failed,
    Shared,
    gate,
    nothing_is_left,
    shared,
    start,
)
from tests.native.nodes import call, const, group, placeholder, variable, well
from tests.native.test_server import METHODS, invoke

PS0, PS1, W0, W1 = "/job:ps/task:0", "/job:ps/task:1", "/job:worker/task:0", "/job:worker/task:1"
CPU = "/job:ps/replica:0/task:0/device:CPU:0"


def busy_threads(cluster: Cluster) -> int:
    """Return how many threads of the tasks have work; to wait for a peer's next request is none."""
    servers = cluster.servers.values()
    return sum(
        len(server._threads._members) - server._threads._idle - server._conversations.idle()
        for server in servers
    )


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method[0].rpartition("/")[2])
def test_bytes_that_are_no_message_are_the_callers_fault(
    cluster: Cluster, method: tuple[str, bool, bool], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        invoke(cluster.channel(PS0), method, METADATA, b"\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    name = method[0].removeprefix("/")
    assert caught.value.details() == f"a request to {name} is not of the type that it takes"
    assert not caplog.records


def test_a_bug_of_ours_is_internal_and_in_the_log(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise IndexError("of no concern to the caller")

    monkeypatch.setattr(cluster.servers[PS0]._master, "clear", broken)
    reset = next(method for method in METHODS if method[0].endswith("/Reset"))
    with pytest.raises(grpc.RpcError, match="Reset failed, with IndexError: see the log") as caught:
        invoke(cluster.channel(PS0), reset, METADATA, b"")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "of no concern to the caller" in caplog.text


def first_fails(*_: Any) -> int:
    """An operation that raises if it is the first to run, and ends when the test lets it."""
    calls = shared().calls
    calls.append("called")
    is_first = len(calls) == 1
    gate()
    if is_first:
        raise ZeroDivisionError
    return 1


def test_helpers_of_a_step_that_failed_do_not_call_for_helpers(
    make_cluster: Callable[..., Cluster], shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make_cluster(1, 1)
    threads = cluster.servers[PS0]._threads
    run, called = threads.run, []

    def noted(*args: Any) -> None:
        called.append(args)
        run(*args)

    monkeypatch.setattr(threads, "run", noted)

    session = cluster.session()
    session.add(
        *(call(f"n{i}", first_fails, device=PS0) for i in range(300)),
        group("all", *(f"n{i}" for i in range(300))),
    )
    outcome = start(session, "all:0")
    for _ in range(min(2, cluster.servers[PS0]._site.limit)):
        shared.wait_for_operation()
    shared.opened.set()
    with pytest.raises(Failed, match="raised ZeroDivisionError"):
        outcome()
    assert nothing_is_left(cluster)
    assert poll(lambda: busy_threads(cluster) == 0, Deadline(10))
    before = len(called)
    for _ in range(50):
        cluster.variables(PS0)
    assert len(called) == before


def test_nobody_waits_for_what_a_master_that_hung_up_will_never_start(cluster: Cluster) -> None:
    """A task asks another for a value of a step that the other never hears of."""
    waits = RegisterGraphRequest(
        graph_def=GraphDef(node=[call("n", np.negative, "x:0", device=CPU)]),
        recv={"x:0": W1},
        master=W0,
    )
    worker = cluster.worker(PS0)
    handle = worker.RegisterGraph(waits, metadata=METADATA).graph_handle
    stored = NamedValue(name="y:0", value=Value(stored="k"))
    for step_id, feeds in ((7, []), (8, [stored])):
        request = RunGraphRequest(graph_handle=handle, step_id=step_id, feed=feeds)
        run = worker.RunGraph.future(request, metadata=METADATA)
        there = cluster.servers[W0 if feeds else W1]._steps
        assert poll(lambda: step_id in there, Deadline(10))  # noqa: B023  # called at once
        run.cancel()
        assert nothing_is_left(cluster)
    assert poll(lambda: busy_threads(cluster) == 0, Deadline(10))


def test_the_graphs_of_masters_that_were_restarted_are_forgotten(cluster: Cluster) -> None:
    for name in (W0, W1):
        session = cluster.session(name)
        session.add(*well(PS0))
        assert session.run("ok:0") == 1
    ps = cluster.servers[PS0]
    for kept in (2, 1, 1):
        cluster.servers.pop(W1).stop()
        cluster.start(W1)
        ps.forget(Task.parse(W1))
        assert ps._worker._graphs.masters() == [W0, W1][:kept]
    session = cluster.session(W1)
    session.add(*well(PS0))
    assert session.run("ok:0") == 1
    assert len(ps._worker._graphs) == 2


def test_what_is_remembered_of_steps_is_bounded_in_bytes(cluster: Cluster) -> None:
    steps = Steps()
    for number in range(100):
        steps.end(number, Status(code=2, message="no", exception=bytes(900_000)))
    assert steps._over_bytes < 1 << 25
    assert len(steps._over) == 37
    words = "no " * 9000
    steps.end(1000, Status(code=2, message=words, exception=bytes(1 << 26), traceback="t"))
    assert steps._over[1000].message == f"{words[:1000]} ... {words[-1000:]}"
    assert not steps._over[1000].exception


@pytest.mark.parametrize(("given", "code"), [(99, UnknownError.code), (-1, 2), (0, 10), (5, 5)])
def test_a_step_ends_with_a_code_that_there_is(cluster: Cluster, given: int, code: int) -> None:
    worker = cluster.worker(PS0)
    status = Status(code=given, message="é" * 100_000, exception=b"x", traceback="x")
    worker.CleanupGraph(CleanupGraphRequest(step_id=3, status=status), metadata=METADATA)
    with pytest.raises(grpc.RpcError) as caught:
        list(worker.RecvTensor(RecvTensorRequest(step_id=3, key="k"), metadata=METADATA))
    assert caught.value.code().value[0] == code
    assert len(caught.value.details()) < 2100


def test_words_that_have_no_place_in_utf8_come_escaped(cluster: Cluster) -> None:
    def fails() -> None:
        raise ValueError("no file 'a\udcff'")

    session = cluster.session()
    session.add(call("f", fails, device=PS0))
    with pytest.raises(Failed, match=r"f raised ValueError: no file 'a\\udcff'") as caught:
        session.run("f:0")
    assert "udcff" in caught.value.status.traceback


@pytest.mark.parametrize(
    ("kind", "value", "more", "message"),
    [
        ("Assign", Value(none=True), {}, "a NoneType came where an array has to be"),
        ("Assign", value_to_proto((np.ones(2), np.ones(3))), {}, "a tuple came where an array"),
        ("AssignAdd", Value(none=True), {}, "cannot be changed like that"),
        ("Assign", value_to_proto(np.ones(3)), {"shape": [-1]}, r"has shape \(-1,\), and a val"),
        (
            "Assign",
            value_to_proto(np.array(["a"])),
            {"dtype": "<U500000000", "shape": None},
            "has dtype <U500000000, which takes many times the memory of the value of dtype <U1",
        ),
        ("Assign", value_to_proto(np.ones(1)), {"dtype": "x"}, "dtype 'x', which cannot be read"),
        (
            "Assign",
            value_to_proto(np.array(b"\xff")),
            {"dtype": "<U5"},
            "came that is none: 'ascii'",
        ),
        ("AssignAdd", value_to_proto(np.ones((100_000, 1))), {}, r"came|not be changed"),
        ("Assign", Value(tensor=TensorProto(dtype="<f8", shape=[1 << 59])), {}, "came damaged"),
    ],
)
def test_values_that_no_variable_can_hold(
    cluster: Cluster, kind: str, value: Value, more: Any, message: str
) -> None:
    session = cluster.session()
    old = np.arange(100_000.0)
    session.add(
        placeholder("x"),
        const("old", old),
        variable("set", "Assign", "old:0", of="v", device=PS0, shape=old.shape),
        variable("write", kind, "x:0", of="v", device=PS0, **more),
        variable("new", "Assign", "x:0", of="another", device=PS0, **more),
    )
    session.run("set:0")
    request = session.request(["write:0" if kind != "Assign" else "new:0"])
    request.feed.append(NamedValue(name="x:0", value=value))
    answer = session.master.RunStep(request, metadata=METADATA, timeout=20)
    assert re.search(message, answer.status.message)
    assert answer.status.code in (InvalidArgumentError.code, DataLossError.code)
    assert np.array_equal(cluster.variables(PS0)["v"], old)
    assert len(cluster.servers[PS0]._worker.variables._variables) == 1


def test_reading_what_is_not_there_makes_nothing(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(variable("read", "Read", of="v", device=PS0))
    with pytest.raises(Failed, match="not initialised") as caught:
        session.run("read:0")
    assert caught.value.code == FailedPreconditionError.code
    assert not cluster.servers[PS0]._worker.variables._variables


def test_many_small_results_do_not_go_in_one_message(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(const("c", np.zeros(1 << 17)), call("f", np.negative, "c:0", device=PS0))
    answer = session.master.RunStep(session.request(["f:0"] * 100), metadata=METADATA, timeout=20)
    kinds = [value.WhichOneof("kind") for value in answer.fetch]
    assert kinds == ["tensor"] * 64 + ["stored"] * 36
    assert answer.ByteSize() < 1 << 27
    assert len(session.value(answer.step_id, answer.fetch[99])) == 1 << 17
    session.close()
    assert nothing_is_left(cluster)


def test_a_task_that_gives_too_few_results_is_named(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.servers[PS0]._worker, "_run", lambda *_: RunGraphResponse().fetch)
    session = cluster.session()
    session.add(*well(PS0))
    message = "/job:ps/task:0 gave 0 results of the 1 that its part of the step has"
    with pytest.raises(Failed, match=message) as caught:
        session.run("ok:0")
    assert caught.value.code == DataLossError.code
