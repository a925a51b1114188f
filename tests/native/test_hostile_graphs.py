"""Graphs that nobody should send are refused by whoever gets them, and take no memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import grpc
import numpy as np
import pytest

from pytest_localcluster._core import pickling
from pytest_localcluster._graph import Input
from pytest_localcluster._proto.graph_pb2 import (
    GraphDef,
    NodeDef,
    Value,
)
from pytest_localcluster._proto.worker_pb2 import (
    RegisterGraphRequest,
)
from pytest_localcluster.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
)
from tests.native.conftest import (
    METADATA,
    Cluster,
    Failed,
)
from tests.native.nodes import call, const, group, placeholder, variable

PS0, PS1, W0, W1 = "/job:ps/task:0", "/job:ps/task:1", "/job:worker/task:0", "/job:worker/task:1"
CPU = "/job:ps/replica:0/task:0/device:CPU:0"


@pytest.mark.parametrize("outputs", [-1, 70_000, 2**31 - 1])
@pytest.mark.parametrize("op", ["NoOp", "Function"])
def test_no_operation_has_any_number_of_outputs(cluster: Cluster, op: str, outputs: int) -> None:
    node = group("many") if op == "NoOp" else call("many", len)
    node.num_outputs = outputs
    message = f"'many' cannot have {outputs} outputs; up to 65536 will do"
    with pytest.raises(grpc.RpcError, match=message):
        cluster.session().add(node)
    refuse(cluster, message, InvalidArgumentError, graph_def=GraphDef(node=[node]))


def test_many_operations_cannot_have_more_outputs_than_a_part_takes(cluster: Cluster) -> None:
    nodes = [group(f"n{i}", device=CPU) for i in range(17)]
    for node in nodes:
        node.num_outputs = 65536
    tracemalloc.start()
    try:
        refuse(
            cluster,
            "a part of a graph has more than 1048576 outputs",
            InvalidArgumentError,
            graph_def=GraphDef(node=nodes),
        )
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def refuse(cluster: Cluster, message: str, kind: Any, **part: Any) -> None:
    """Register a part at a task, which refuses it."""
    answer = cluster.worker(PS0).RegisterGraph(
        RegisterGraphRequest(**part), metadata=METADATA, timeout=10
    )
    assert answer.status.message.partition("\n")[0] == message
    assert answer.status.code == kind.code
    assert not answer.status.traceback
    assert not cluster.servers[PS0]._worker._graphs


@pytest.mark.parametrize("output", ["²", "٣", "1" * 5000, "-1", "", "+0", " 0", "1"])
def test_outputs_are_numbers_and_there(cluster: Cluster, output: str) -> None:
    session = cluster.session()
    session.add(const("c", np.int64(1)))
    with pytest.raises(Failed, match="'c' has 1 outputs"):
        session.run(f"c:{output}")
    with pytest.raises(Failed, match="'c' has 1 outputs"):
        session.run("c:0", feeds={f"c:{output}": np.int64(1)})
    with pytest.raises(grpc.RpcError, match="'c' has 1 outputs"):
        session.add(call("d", len, f"c:{output}"))
    if len(output) < 1000:
        node = const("c", np.int64(1), device=CPU)
        refuse(
            cluster,
            f"'c:{output}' is asked for, and 'c' has 1 outputs",
            InvalidArgumentError,
            graph_def=GraphDef(node=[node]),
            fetch=[f"c:{output}"],
        )


@pytest.mark.parametrize(
    ("nodes", "more", "message", "kind"),
    [
        ([NodeDef(name="a", op="Magic")], {}, "'a' is a 'Magic'; there are", InvalidArgumentError),
        ([NodeDef(name="a", op="Function")], {}, "'a' is a Function without", InvalidArgumentError),
        ([group("a"), group("a")], {}, "there are two operations 'a' in", AlreadyExistsError),
        ([variable("a", "Assign", of="v")], {}, "'a' is a AssignVariable, w", InvalidArgumentError),
        ([group("a", "b")], {}, "'a' has input '^b', which is not in", InvalidArgumentError),
        (
            [group("a", "b"), group("b", "a")],
            {},
            "operation 'a' waits for it",
            InvalidArgumentError,
        ),
        ([group("a", "a")], {}, "operation 'a' waits for itself", InvalidArgumentError),
        ([], {"feed": ["a"]}, "'a', which shall come from elsewhere", InvalidArgumentError),
        ([], {"fetch": ["a:0"]}, "an output of 'a' is asked for, which", InvalidArgumentError),
        ([group("a")], {"fetch": ["^a"]}, "'^a' cannot be fetched: it has", InvalidArgumentError),
        ([], {"master": "x"}, "there is no task 'x' in this cl", InvalidArgumentError),
        ([], {"recv": {"a:0": "localhost:1"}}, "there is no task 'l", InvalidArgumentError),
        (
            [const("a", Value(stored="k"))],
            {},
            "there is no task ''",
            InvalidArgumentError,
        ),
    ],
)
def test_parts_that_cannot_be_are_refused_by_the_task_too(
    cluster: Cluster, nodes: list[NodeDef], more: Any, message: str, kind: Any
) -> None:
    for node in nodes:
        node.device = CPU
    answer = cluster.worker(PS0).RegisterGraph(
        RegisterGraphRequest(graph_def=GraphDef(node=nodes), **more), metadata=METADATA, timeout=10
    )
    assert answer.status.message.startswith(message)
    assert answer.status.code == kind.code
    assert not answer.status.traceback


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (7, ((), {}), "'f' is no function call: a int cannot be called"),
        (len, 7, "'f' is no function call: its arguments are no pair of a tuple and a dict"),
        (len, ((Input(1),), {}), "its arguments stand for input 1, and it has 1"),
        (len, (([{"x": Input(9)}],), {}), "its arguments stand for input 9, and it has 1"),
    ],
)
def test_what_is_unpickled_has_to_be_a_call(
    cluster: Cluster, function: Any, arguments: Any, message: str
) -> None:
    session = cluster.session()
    node = call("f", len, "c:0", device=PS0)
    node.function, node.arguments = pickling.dumps(function), pickling.dumps(arguments)
    session.add(const("c", np.zeros(3)), node)
    with pytest.raises(Failed, match=message) as caught:
        session.run("f:0")
    assert caught.value.code == InvalidArgumentError.code


def test_absurd_counts_take_no_absurd_time(cluster: Cluster) -> None:
    many = 20_000
    session = cluster.session()
    session.add(
        placeholder("x"),
        *(const(f"c{i}", np.int64(i), device=PS0) for i in range(2000)),
        call("f", max, *(f"c{i}:0" for i in range(2000)), device=W1),
        call("g", max, "x:0", "f:0", device=PS0),
    )
    request = session.request(["g:0", "c7:0"] * many, {"x:0": np.int64(5)}, ["f"] * many)
    answer = session.master.RunStep(request, metadata=METADATA, timeout=20)
    assert not answer.status.message
    assert len(answer.fetch) == 2 * many
