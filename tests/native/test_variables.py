"""Variables: their lives, what may be stored in them, and that no update is ever lost."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from pytest_localcluster._proto.graph_pb2 import NodeDef
from pytest_localcluster._tensors import dtype_to_text
from pytest_localcluster.errors import FailedPreconditionError, InvalidArgumentError
from tests.native.conftest import Cluster, Failed, Session
from tests.native.nodes import call, const, placeholder, variable

PS0, PS1, W1 = "/job:ps/task:0", "/job:ps/task:1", "/job:worker/task:1"


def all_of(name: str, device: str = PS0, **fields: Any) -> list[NodeDef]:
    """All operations of a variable; they take what is fed to ``{name}/x``."""
    x = f"{name}/x"
    return [
        placeholder(x),
        placeholder(f"{name}/i"),
        variable(f"{name}/read", "Read", of=name, device=device, **fields),
        variable(f"{name}/assign", "Assign", f"{x}:0", of=name, device=device, **fields),
        variable(f"{name}/add", "AssignAdd", f"{x}:0", of=name, device=device, **fields),
        variable(f"{name}/sub", "AssignSub", f"{x}:0", of=name, device=device, **fields),
        variable(
            f"{name}/scatter",
            "ScatterAdd",
            f"{name}/i:0",
            f"{x}:0",
            of=name,
            device=device,
            **fields,
        ),
    ]


def do(session: Session, what: str, value: Any = None, indices: Any = None) -> Any:
    name = what.partition("/")[0]
    feeds = {} if value is None else {f"{name}/x:0": np.asarray(value)}
    if indices is not None:
        feeds[f"{name}/i:0"] = np.asarray(indices)
    return session.run(f"{what}:0", feeds=feeds)


def test_writes_give_the_new_value(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(*all_of("v", shape=(3,)))
    assert do(session, "v/assign", [1.0, 2, 3]).tolist() == [1, 2, 3]
    assert do(session, "v/add", [1.0, 1, 1]).tolist() == [2, 3, 4]
    assert do(session, "v/sub", 2.0).tolist() == [0, 1, 2]
    assert do(session, "v/scatter", [10.0, 5, 1], [0, 0, 2]).tolist() == [15, 1, 3]
    assert do(session, "v/read").tolist() == [15, 1, 3]
    assert {k: v.tolist() for k, v in cluster.variables(PS0).items()} == {"v": [15, 1, 3]}
    assert cluster.variables(PS1) == {}


def test_an_uninitialised_variable_is_named_with_its_task_and_the_remedy(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(*all_of("v", PS1))
    for what in ("v/read", "v/add", "v/sub"):
        with pytest.raises(Failed, match="'v' is not initialised on /job:ps/task:1") as caught:
            do(session, what, None if what == "v/read" else 1.0)
        assert caught.value.code == FailedPreconditionError.code
        assert "run variables_initializer" in str(caught.value)
        assert caught.value.status.op == what
        assert caught.value.status.device == "/job:ps/replica:0/task:1/device:CPU:0"
    assert cluster.variables(PS1) == {}


@pytest.mark.parametrize(
    ("what", "value", "indices", "message"),
    [
        ("v/assign", [1.0, 2], None, r"has shape \(3,\), and a value of shape \(2,\) came"),
        ("v/assign", 1.0, None, r"has shape \(3,\), and a value of shape \(\) came"),
        ("v/assign", [1j, 2, 3], None, "has dtype float64, and a value of dtype complex128 came"),
        ("v/add", [1j, 2, 3], None, "has dtype float64, and a value of dtype complex128 came"),
        ("v/add", [[1.0], [2.0]], None, r"has shape \(3,\), and a value of shape \(2, 3\) came"),
        (
            "v/sub",
            [1.0, 2],
            None,
            r"\(dtype float64, shape \(3,\)\) cannot be changed like that: .*broad",
        ),
        (
            "v/add",
            ["a", "b", "c"],
            None,
            "cannot be changed like that: ufunc 'add' did not contain",
        ),
        ("v/scatter", 1.0, [3], "cannot be changed like that: index 3 is out of bounds"),
        ("v/scatter", 1.0, [1.0], "the indices of scatter_add have dtype float64"),
        ("v/scatter", [1.0, 2], [0, 1, 2], "cannot be changed like that: .*shape"),
    ],
)
def test_a_value_that_does_not_fit_changes_nothing(
    cluster: Cluster, what: str, value: Any, indices: Any, message: str
) -> None:
    session = cluster.session()
    session.add(*all_of("v", shape=(3,)))
    do(session, "v/assign", [1.0, 2, 3])
    with pytest.raises(Failed, match="variable 'v'.*" + message) as caught:
        do(session, what, value, indices)
    assert caught.value.code == InvalidArgumentError.code
    assert caught.value.status.op == what
    assert do(session, "v/read").tolist() == [1, 2, 3]


def test_values_are_cast_to_the_variables_dtype(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(*all_of("v", dtype="<f4"))
    assert do(session, "v/assign", np.float64(1.5)).dtype == np.float32
    assert do(session, "v/add", np.int64(1)).dtype == np.float32
    assert cluster.variables(PS0)["v"] == np.float32(2.5)


def test_a_variable_of_unknown_shape_takes_that_of_its_first_value(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(*all_of("v", dtype="", shape=None))
    assert do(session, "v/assign", np.zeros((2, 2), np.float32)).dtype == np.float32
    assert do(session, "v/assign", np.ones((2, 2))).dtype == np.float32
    with pytest.raises(Failed, match=r"has shape \(2, 2\), and a value of shape \(3,\) came"):
        do(session, "v/assign", np.zeros(3))


@pytest.mark.parametrize(
    "value",
    [
        np.array(["a", "日本"]),
        np.array(["2024-01-01"], "M8[s]"),
        np.array([1 + 2j]),
        np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")]),
        np.array([True]),
        np.array([1], ">i2"),
        *(
            [np.array(["x", "yy"], np.dtypes.StringDType())]
            if hasattr(np.dtypes, "StringDType")
            else []
        ),
    ],
    ids=lambda value: str(value.dtype)[:12],
)
def test_variables_of_every_dtype(cluster: Cluster, value: Any) -> None:
    session = cluster.session()
    session.add(*all_of("v", dtype=dtype_to_text(value.dtype), shape=value.shape))
    do(session, "v/assign", value)
    for back in (do(session, "v/read"), cluster.variables(PS0)["v"]):
        assert back.dtype == value.dtype
        assert back.tolist() == value.tolist()


def test_what_was_read_is_a_snapshot(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(
        *all_of("v", shape=(2,)),
        const("one", np.ones(2)),
        variable("add", "AssignAdd", "one:0", of="v", device=PS0, shape=(2,), after=["v/read"]),
        call("before", np.copy, "v/read:0", device=PS0, after=["add"]),
    )
    do(session, "v/assign", [0.0, 0.0])
    before, after = session.run("before:0", "add:0")
    assert before.tolist() == [0, 0]
    assert after.tolist() == [1, 1]


def test_a_variable_does_not_share_memory_with_what_was_assigned(cluster: Cluster) -> None:
    buffer = np.full(2, -1.0)

    def scratch() -> Any:
        buffer[:] += 1
        return buffer

    session = cluster.session()
    session.add(
        call("scratch", scratch, device=PS0),
        variable("assign", "Assign", "scratch:0", of="v", device=PS0, shape=(2,)),
        variable("read", "Read", of="v", device=PS0, shape=(2,)),
    )
    session.run("assign:0")
    session.run("scratch:0")
    assert session.run("read:0").tolist() == [0, 0]


def test_sessions_to_different_workers_share_variables(cluster: Cluster) -> None:
    one, two = cluster.session(), cluster.session(W1)
    for session in (one, two):
        session.add(*all_of("v", PS1))
    do(one, "v/assign", 1.5)
    assert do(two, "v/add", 1.0) == 2.5
    one.close()
    assert do(two, "v/read") == 2.5


def test_isolated_sessions_do_not_and_take_theirs_along(cluster: Cluster) -> None:
    plain = cluster.session()
    one = cluster.session(isolate_session_state=True)
    two = cluster.session(isolate_session_state=True)
    for number, session in enumerate((plain, one, two)):
        session.add(*all_of("v"))
        do(session, "v/assign", float(number))
    assert [float(do(session, "v/read")) for session in (plain, one, two)] == [0, 1, 2]
    assert cluster.variables(PS0) == {"v": 0, f"{one.handle}/v": 1, f"{two.handle}/v": 2}
    one.close()
    assert cluster.variables(PS0) == {"v": 0, f"{two.handle}/v": 2}


def test_concurrent_updates_from_several_sessions_lose_nothing(cluster: Cluster) -> None:
    shape = (50,)
    first = cluster.session()
    first.add(*all_of("v", shape=shape))
    do(first, "v/assign", np.zeros(shape))
    errors: list[Exception] = []

    def client(number: int) -> None:
        try:
            session = cluster.session(f"/job:worker/task:{number % 2}")
            session.add(*all_of("v", shape=shape))
            for _ in range(30):
                do(session, "v/add", np.ones(shape))
                do(session, "v/scatter", 1.0, np.arange(50))
                do(session, "v/sub", 0.5)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert set(do(first, "v/read")) == {6 * 30 * 1.5}
