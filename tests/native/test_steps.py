"""One step over several tasks: everything once, in its place, tensors from task to task."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest

from pytest_localcluster._context import current_task
from tests.native.conftest import Cluster, Failed, Shared, counted, gate
from tests.native.nodes import call, const, group, placeholder, variable

PS0, PS1, W0, W1 = "/job:ps/task:0", "/job:ps/task:1", "/job:worker/task:0", "/job:worker/task:1"


def test_every_operation_runs_once_on_its_own_task(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    session.add(
        call("a", counted("a"), device=PS0),
        call("b", counted("b"), "a:0", "a:0", device=PS1),
        call("c", counted("c"), "a:0", device=W1),
        call("d", counted("d"), "b:0", "c:0", "a:0"),
        call("unused", counted("unused"), "d:0", device=PS0),
        call("extra", counted("extra"), after=["a"], device=W1),
        call("last", counted("last"), after=["b", "extra"], device=PS0),
    )
    assert session.run("d:0", "d:0", "a:0", targets=["last", "c"]) == [1, 1, 1]
    expected = {("a", PS0), ("b", PS1), ("c", W1), ("d", W0), ("extra", W1), ("last", PS0)}
    assert Counter(shared.calls) == Counter(expected)
    session.run("d:0")
    assert Counter(shared.calls) == Counter(expected) + Counter(
        {("a", PS0): 1, ("b", PS1): 1, ("c", W1): 1, ("d", W0): 1}
    )


def test_tensors_cross_tasks_there_and_back_within_one_step(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(placeholder("x"), call("n0", np.add, "x:0", "x:0", device=PS0))
    ring = [PS1, W1, W0, PS0]
    for i in range(12):
        session.add(call(f"n{i + 1}", np.add, f"n{i}:0", "x:0", device=ring[i % 4]))
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(session.run("n12:0", feeds={"x:0": x}), x * 14)


def test_control_edges_hold_across_tasks(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    for i, device in enumerate([PS0, W1, PS0, W0, PS1, W1]):
        session.add(
            call(f"n{i}", counted(f"n{i}"), device=device, after=[f"n{i - 1}"] if i else [])
        )
    session.add(group("all", "n5", "n0", device=PS1))
    for _ in range(5):
        shared.calls.clear()
        session.run(targets=["all"])
        assert [name for name, _ in shared.calls] == [f"n{i}" for i in range(6)]


def test_a_constant_with_a_control_input_still_waits_for_it(
    cluster: Cluster, shared: Shared
) -> None:
    session = cluster.session()
    session.add(
        call("first", counted("first"), device=PS0),
        const("c", np.float64(2), device=PS0, after=["first"]),
        call("second", counted("second"), "c:0", device=W1),
    )
    session.run("second:0")
    assert [name for name, _ in shared.calls] == ["first", "second"]


def test_constants_and_groups_need_no_device(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(const("c", np.array([1, 2])), const("n", None), group("g", "c", "n"))
    array, nothing, grouped = session.run("c:0", "n:0", "g:0")
    np.testing.assert_array_equal(array, [1, 2])
    assert nothing is None
    assert grouped is None


def test_any_output_can_be_fed(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    session.add(
        call("a", counted("a"), device=PS0),
        call("b", np.add, "a:0", "a:0", device=PS1),
        call("c", np.add, "b:0", "a:0", device=W1),
    )
    assert session.run("c:0", "b:0", feeds={"a:0": np.int64(5)}) == [15, 10]
    assert shared.calls == []
    assert session.run("c:0", "b:0", feeds={"b:0": np.int64(5)}) == [6, 5]
    assert shared.calls == [("a", PS0)]
    # A target runs even where its output is fed, and the feed is what others get.
    assert session.run("c:0", feeds={"a:0": np.int64(7)}, targets=["a"]) == 21
    assert shared.calls == [("a", PS0)] * 2


def test_a_function_with_several_outputs(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(
        const("m", np.diag([3.0, 2.0])),
        call("parts", lambda m: (m[0], m[1]), "m:0", outputs=2, device=PS0),
        call("sum", np.add, "parts:0", "parts:1", device=W1),
        call("svd", np.linalg.svd, "m:0", device=PS1),
        call("s", lambda svd: svd[1], "svd:0", device=W1),
        call("split", lambda m: np.array_split(m, 2), "m:0", device=PS1),
        call("none", lambda m: None, "m:0", device=PS1),
        call("is none", lambda value: value is None, "none:0"),
    )
    np.testing.assert_array_equal(session.run("sum:0"), [3, 2])
    np.testing.assert_array_equal(session.run("s:0"), [3, 2])
    assert [part.shape for part in session.run("svd:0")] == [(2, 2), (2,), (2, 2)]
    assert isinstance(session.run("split:0"), list)
    none, is_none = session.run("none:0", "is none:0")
    assert none is None
    assert is_none


def test_functions_get_scalars_where_numpy_would_give_scalars(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(placeholder("x"), call("kind", lambda x: type(x).__name__, "x:0", device=PS0))
    for value, kind in [
        (np.array(1.5), "float64"),
        (np.array("a"), "str_"),
        (np.array("2024-01-01", "M8[D]"), "datetime64"),
        (np.array([1.5]), "ndarray"),
        (np.array(1, ">i4"), "ndarray"),
    ]:
        assert session.run("kind:0", feeds={"x:0": value}) == kind


def test_a_function_without_inputs_knows_its_task(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(call("where", lambda: str(current_task().task), device=PS1))
    assert session.run("where:0") == PS1


def test_an_operation_cannot_change_what_others_read(cluster: Cluster) -> None:
    def vandal(x: Any) -> Any:
        with pytest.raises(ValueError, match="read-only"):
            x[0] = 100.0
        return x

    session = cluster.session()
    session.add(
        const("c", np.zeros(3)),
        call("v1", vandal, "c:0", device=PS0),
        call("v2", vandal, "v1:0", device=PS0),
        call("v3", vandal, "v2:0", device=W1),
        call("v4", vandal, "v3:0", device=W0),
    )
    np.testing.assert_array_equal(session.run("v4:0"), np.zeros(3))


def test_independent_operations_run_side_by_side(make_cluster: Any) -> None:
    from pytest_localcluster._proto.config_pb2 import ConfigProto

    def meet(*_: Any) -> int:
        from sys import modules

        modules["tests.native.test_steps"].BARRIER.wait()
        return 1

    cluster = make_cluster(1, 1, config=ConfigProto(inter_op_parallelism_threads=3))
    session = cluster.session()
    session.add(*(call(f"m{i}", meet, device=PS0) for i in range(3)))
    assert session.run("m0:0", "m1:0", "m2:0") == [1, 1, 1]


BARRIER = threading.Barrier(3, timeout=20)


def test_no_more_functions_run_at_once_than_the_config_says(make_cluster: Any) -> None:
    from pytest_localcluster._proto.config_pb2 import ConfigProto

    def only(*_: Any) -> int:
        from sys import modules

        lock = modules["tests.native.test_steps"].LOCK
        assert lock.acquire(blocking=False), "two operations at once"
        try:
            return int(np.linalg.svd(np.ones((60, 60)))[1].shape[0])
        finally:
            lock.release()

    cluster = make_cluster(1, 1, config=ConfigProto(inter_op_parallelism_threads=1))
    session = cluster.session()
    session.add(const("c", 1.0 * np.ones(1), device="/job:worker"))
    session.add(*(call(f"m{i}", only, "c:0", device=PS0) for i in range(20)))
    assert session.run(*(f"m{i}:0" for i in range(20))) == [60] * 20


LOCK = threading.Lock()


def test_a_late_tensor_holds_up_nothing_else(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    session.add(
        call("late", gate, device=PS0),
        call("needs it", np.add, "late:0", "late:0", device=W1),
        const("c", np.float64(1)),
        call("ahead", counted("ahead"), "c:0", device=W1),
        call("further", counted("further"), "ahead:0", device=W1),
        call("open", lambda _: _open(), "further:0", device=PS1),
    )
    assert session.run("needs it:0", "open:0") == [2, 1]


def _open() -> int:
    from sys import modules

    modules["tests.native.conftest"]._shared.opened.set()
    return 1


def test_many_steps_at_once_in_one_session(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(
        placeholder("x"),
        call("a", np.add, "x:0", "x:0", device=PS0),
        call("b", np.add, "a:0", "x:0", device=W1),
    )
    wrong: list[Any] = []

    def client(number: int) -> None:
        for i in range(20):
            got = session.run("b:0", feeds={"x:0": np.int64(number * 100 + i)})
            if got != 3 * (number * 100 + i):
                wrong.append((number, i, got))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_deep_graph(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(const("n0", np.int64(0)), const("one", np.int64(1)))
    session.add(*(call(f"n{i + 1}", np.add, f"n{i}:0", "one:0") for i in range(3000)))
    assert session.run("n3000:0") == 3000


def test_only_tasks_that_the_graph_names_are_dialled(cluster: Cluster) -> None:
    cluster.servers.pop(PS1).stop()
    session = cluster.session()
    session.add(call("a", np.zeros, "c:0", device=PS0), const("c", np.int64(2), device=W1))
    assert session.run("a:0").shape == (2,)


@pytest.mark.parametrize("device", [W0, PS0])
@pytest.mark.parametrize("size", [3, 1 << 18])
def test_no_operation_can_change_what_it_is_given_wherever_it_comes_from(
    cluster: Cluster, device: str, size: int
) -> None:
    def change(value: Any) -> Any:
        value += 1
        return value

    session = cluster.session()
    value = np.ones(size)
    session.add(placeholder("fed"), const("here", np.ones(3)), const("there", np.ones(3), PS1))
    for i, source in enumerate([W0, PS0, PS1, W1]):
        session.add(
            variable(f"init{i}", "Assign", "fed:0", of=f"v{i}", device=source, shape=None),
            variable(f"read{i}", "Read", of=f"v{i}", device=source, shape=None),
            call(f"op{i}", np.copy, "fed:0", device=source),
        )
    session.run(targets=[f"init{i}" for i in range(4)], feeds={"fed:0": value})
    sources = ["fed", "here", "there", *(f"{kind}{i}" for kind in ("read", "op") for i in range(4))]
    for source in sources:
        session.add(call(f"change {source}", change, f"{source}:0", device=device))
        with pytest.raises(Failed, match="ValueError: output array is read-only"):
            session.run(f"change {source}:0", feeds={"fed:0": value})
