"""Tensors that are too large for a message go as streams, both ways and between tasks."""

from __future__ import annotations

import tracemalloc
from typing import Any

import grpc
import numpy as np
import pytest

from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._proto.worker_pb2 import RecvTensorRequest
from pytest_localcluster._tensors import INLINE_LIMIT
from tests.native.conftest import METADATA, Cluster
from tests.native.nodes import call, const, placeholder, variable

PS0, PS1, W0, W1 = "/job:ps/task:0", "/job:ps/task:1", "/job:worker/task:0", "/job:worker/task:1"
LARGE = 3 * INLINE_LIMIT // 8 + 1


@pytest.mark.parametrize("device", [W0, PS0])
def test_large_feeds_and_fetches(cluster: Cluster, device: str) -> None:
    session = cluster.session()
    session.add(placeholder("x"), call("y", np.negative, "x:0", device=device))
    x = np.random.default_rng(0).normal(size=LARGE)
    for _ in range(2):
        y, back = session.run("y:0", "x:0", feeds={"x:0": x})
        np.testing.assert_array_equal(y, -x)
        np.testing.assert_array_equal(back, x)
    # What was sent ahead for one step is gone with it, and so is what was read.
    assert cluster.servers[W0]._master._sessions[session.handle]._stored == {}
    assert all(not len(server._steps) for server in cluster.servers.values())


def test_a_large_feed_reaches_several_tasks(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(placeholder("x"))
    session.add(
        *(call(f"s{i}", np.sum, "x:0", device=d) for i, d in enumerate((PS0, PS1, W0, W1, PS0)))
    )
    x = np.ones(LARGE)
    assert session.run(*(f"s{i}:0" for i in range(5)), feeds={"x:0": x}) == [LARGE] * 5
    assert all(not len(server._steps) for server in cluster.servers.values())


@pytest.mark.parametrize("device", ["", PS0])
def test_large_constants_are_sent_once(cluster: Cluster, device: str) -> None:
    session = cluster.session()
    value = session.send("the constant", np.arange(LARGE), keep=True)
    session.add(
        const("c", value, device),
        call("last", lambda c: c[-1], "c:0", device=W1),
        call("first", lambda c: c[0], "c:0", device=PS0),
    )
    assert session.run("last:0", "first:0") == [LARGE - 1, 0]
    assert session.run("last:0") == LARGE - 1
    assert session.run("c:0").shape == (LARGE,)


def test_large_tensors_between_tasks_of_many_kinds(cluster: Cluster) -> None:
    def make() -> Any:
        text = np.array(["some text", "日本語"] * (1 << 17))
        record = np.zeros(1 << 17, [("a", "i4"), ("b", ">f8")])
        record["b"] = np.arange(1 << 17)
        return (text, None, [record, np.asfortranarray(np.ones((1 << 9, 1 << 9)))], np.array(1))

    session = cluster.session()
    session.add(call("a", make, device=PS0), call("b", lambda a: a, "a:0", device=W1))
    text, none, (record, fortran), one = session.run("b:0")
    assert text[-1] == "日本語"
    assert len(text) == 1 << 18
    assert none is None
    assert record.dtype == np.dtype([("a", "i4"), ("b", ">f8")])
    assert record["b"][-1] == (1 << 17) - 1
    assert fortran.sum() == 1 << 18
    assert one == 1


def test_large_variables(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(
        placeholder("x"),
        variable("init", "Assign", "x:0", of="v", device=PS0, shape=(LARGE,)),
        variable("read", "Read", of="v", device=PS0, shape=(LARGE,)),
        call("sum", np.sum, "read:0", device=W1),
    )
    session.run(targets=["init"], feeds={"x:0": np.ones(LARGE)})
    assert session.run("sum:0") == LARGE
    assert cluster.variables(PS0)["v"].sum() == LARGE
    assert cluster.variables(PS0)["v"].flags.writeable


def test_a_large_result_that_nobody_reads_goes_with_its_session(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(call("a", lambda: np.ones(1 << 18), device=PS0))
    response = session.master.RunStep(session.request(["a:0"]), metadata=METADATA)
    server = cluster.servers[W0]
    assert len(server._steps) == 1
    session.close()
    assert len(server._steps) == 0
    request = RecvTensorRequest(step_id=response.step_id, key=response.fetch[0].stored)
    with pytest.raises(grpc.RpcError, match="the session was closed"):
        next(session.worker.RecvTensor(request, metadata=METADATA))


def test_what_was_not_sent_ahead_is_named(cluster: Cluster) -> None:
    from pytest_localcluster._proto.graph_pb2 import NamedValue, Value
    from pytest_localcluster._proto.master_pb2 import RunStepRequest

    session = cluster.session()
    session.add(placeholder("x"))
    request = RunStepRequest(
        session_handle=session.handle,
        feed=[NamedValue(name="x:0", value=Value(stored="lost"))],
        fetch=["x:0"],
    )
    status = session.master.RunStep(request, metadata=METADATA).status
    assert status.message == "no value was sent ahead under 'lost'"


def test_intermediate_values_are_freed_as_soon_as_nobody_needs_them(cluster: Cluster) -> None:
    size = 8 << 20
    session = cluster.session()
    session.add(call("n0", lambda: np.ones(size, np.uint8), device=PS0))
    session.add(
        *(call(f"n{i + 1}", np.copy, f"n{i}:0", device=PS0) for i in range(20)),
        call("sum", np.sum, "n20:0", device=PS0),
    )
    tracemalloc.start()
    try:
        assert session.run("sum:0") == size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * size, f"{peak / size:.1f} of 21 arrays were alive at once"


def test_memory_does_not_grow_with_steps(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(
        call("a", lambda: np.ones(2 << 20, np.uint8), device=PS0),
        call("b", np.sum, "a:0", device=W1),
    )
    for _ in range(3):
        session.run("b:0", "a:0")
    tracemalloc.start()
    try:
        for _ in range(10):
            session.run("b:0", "a:0")
        assert poll(lambda: tracemalloc.get_traced_memory()[0] < 8 << 20, Deadline(10))
    finally:
        tracemalloc.stop()
