"""Steps and graphs that cannot be are refused, by name and whole."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from pytest_localcluster._proto.graph_pb2 import NodeDef
from pytest_localcluster.errors import InvalidArgumentError
from tests.native.conftest import Cluster, Failed
from tests.native.nodes import call, const, group, placeholder, variable

PS0, PS1, W0, W1 = "/job:ps/task:0", "/job:ps/task:1", "/job:worker/task:0", "/job:worker/task:1"


def test_functions_that_give_no_tensor_are_refused(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(
        call("object", lambda: {"a": 1}, device=PS0),
        call("ragged", lambda: [[1], [2, 3]], device=PS0),
        call("two", lambda: (1, 2, 3), outputs=2, device=PS0),
        call("one", lambda: 1, outputs=2, device=PS0),
    )
    for name, message in [
        (
            "object",
            "object on /job:ps/replica:0/task:0/device:CPU:0: its result is no tensor: an arr",
        ),
        ("ragged", "ragged on /job:ps/replica:0/task:0/device:CPU:0: its result is no tensor: "),
        ("two", "should return 2 values, and returned 3"),
        ("one", "should return 2 values, and returned int"),
    ]:
        with pytest.raises(Failed, match=message) as caught:
            session.run(f"{name}:0")
        assert caught.value.code == InvalidArgumentError.code
        assert caught.value.status.op == name
        assert caught.value.status.device == "/job:ps/replica:0/task:0/device:CPU:0"


def test_steps_that_cannot_be_are_refused_by_name(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(placeholder("x", PS1), call("y", np.add, "x:0", "x:0", device=PS0))
    session.add(
        NodeDef(name="p", op="NoOp", num_outputs=1, input=["^q"]),
        NodeDef(name="q", op="NoOp", num_outputs=1, input=["^p"]),
    )
    one = np.int64(1)
    for fetch, feeds, message in [
        ("y:0", {}, "placeholder 'x' is needed and was not fed"),
        ("no:0", {}, "there is no operation 'no' to fetch in the graph"),
        ("y", {}, "there is no operation 'y' to fetch in the graph"),
        ("y:1", {}, "'y:1' cannot be a fetch: 'y' has 1 outputs"),
        ("y:0", {"z:0": one, "x:0": one}, "there is no operation 'z' to feed in the graph"),
        ("p:0", {}, "operations 'p' and 'q' wait for each other"),
    ]:
        with pytest.raises(Failed, match=message) as caught:
            session.run(fetch, feeds=feeds)
        assert caught.value.code == InvalidArgumentError.code
    with pytest.raises(Failed, match="there is no operation 'no' to run in the graph"):
        session.run(targets=["no"])
    assert session.run("y:0", feeds={"x:0": one}) == 2


def test_bad_graphs_are_refused_whole(cluster: Cluster) -> None:
    session = cluster.session()
    good = const("good", np.int64(1))
    invalid, exists = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS
    for bad, code, message in [
        (const("good", None), exists, "there are two operations 'good'"),
        (const("a:b", None), invalid, "no operation can be called 'a:b'"),
        (NodeDef(op="NoOp"), invalid, "no operation can be called ''"),
        (NodeDef(name="a", op="Magic"), invalid, "'a' is a 'Magic'; there are AssignAdd"),
        (group("a", "b"), invalid, r"'a' has input '\^b', which is not in the graph"),
        (call("a", len, "good:1"), invalid, "'a' has input 'good:1', and 'good' has 1 outputs"),
        (call("a", len, "good"), invalid, "'a' has input 'good', which is not in the graph"),
        (NodeDef(name="a", op="Const", num_outputs=1), invalid, "'a' is a Const without a value"),
        (NodeDef(name="a", op="Function"), invalid, "a Function without function and arguments"),
        (NodeDef(name="a", op="ReadVariable"), invalid, "a ReadVariable and names no variable"),
        (variable("a", "Assign", of="v"), invalid, "takes 1 inputs, and has 0"),
        (variable("a", "ScatterAdd", "good:0", of="v"), invalid, "takes 2 inputs, and has 1"),
    ]:
        with pytest.raises(grpc.RpcError, match=message) as caught:
            session.add(good, bad)
        assert caught.value.code() == code
    session.add(good)
    assert session.run("good:0") == 1


def test_a_function_that_a_task_cannot_unpickle_names_itself(cluster: Cluster) -> None:
    session = cluster.session()
    node = call("broken", len, device=PS0)
    node.function = b"cos\nno_such_function\n."
    session.add(node)
    with pytest.raises(Failed, match="broken raised AttributeError: .*no_such_function") as caught:
        session.run("broken:0")
    assert caught.value.status.op == "broken"
    assert "Traceback" in caught.value.status.traceback
