"""Questions of tasks about test modules, wherever in a task they come from."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import grpc
import pytest

from pytest_localcluster import LocalCluster, ServicerRuntime, function

OFFSET = 10
ECHO = "/test.Echo/Echo"


class Metric:
    """A plain class."""


def square(x: int) -> int:
    return x * x


def add_offset(x: int) -> int:
    return x + OFFSET


def again(obj: Any) -> Any:
    return pickle.loads(pickle.dumps(obj))


def fetched(name: str) -> Any:
    """Return a global of this module by its name."""
    return getattr(sys.modules[__name__], name)


class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers with the value of a global that only its name says, and pickles what is at hand."""

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method != ECHO:
            return None
        return grpc.unary_unary_rpc_method_handler(self.echo)

    def echo(self, request: bytes, context: Any) -> bytes:
        assert again(square)(3) == 9
        assert again(Metric) is Metric
        return str(fetched(request.decode())).encode()


def add(server: grpc.Server) -> None:
    """Runs before the task serves: what it asks for now is answered, too."""
    assert fetched("OFFSET") == 10
    assert again(square)(2) == 4
    server.add_generic_rpc_handlers((Handler(),))


@pytest.mark.parametrize("called", [False, True])
def test_services_ask_while_they_start_and_serve(called: bool) -> None:
    with LocalCluster(workers=1, ps=0, runtime=ServicerRuntime({"worker": add})) as cluster:
        (worker,) = cluster.workers
        if called:
            assert worker.run(lambda: again(Metric)) is Metric
        echo = worker.channel().unary_unary(ECHO)
        assert echo(b"OFFSET", timeout=20) == b"10"
        assert echo(b"ECHO", timeout=20) == ECHO.encode()


def test_a_start_that_asks_for_what_is_not_there_says_so() -> None:
    def add(server: grpc.Server) -> None:
        fetched("NOTHING")

    cluster = LocalCluster(workers=1, ps=0, runtime=ServicerRuntime({"worker": add}))
    with pytest.raises(Exception, match="has no attribute 'NOTHING'"):
        cluster.start()


OPERATIONS = {
    "function": lambda: float(again(square)(3)),
    "class": lambda: float(again(Metric) is Metric),
    "fetched": lambda: float(fetched("OFFSET")),
    "patched": lambda: patched(),
}


def patched() -> float:
    with mock.patch(f"{__name__}.OFFSET", 1):
        return float(add_offset(1))


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, ps=0) as running:
        yield running


@pytest.mark.parametrize(
    ("name", "value"), [("function", 9.0), ("class", 1.0), ("fetched", 10.0), ("patched", 2.0)]
)
def test_operations_of_the_native_runtime(cluster: LocalCluster, name: str, value: float) -> None:
    with cluster.session() as session:
        assert session.run(function(OPERATIONS[name])()) == value


@pytest.mark.parametrize("what", [square, Metric, Metric()], ids=["function", "class", "instance"])
def test_arguments_of_operations(cluster: LocalCluster, what: Any) -> None:
    with cluster.session() as session:
        assert session.run(function(lambda x: len(pickle.dumps(x)))(what)) > 0


def test_an_operation_keeps_the_globals_that_it_was_made_with(cluster: LocalCluster) -> None:
    def look() -> float:
        return float(add_offset(0))

    before = function(look)()
    with mock.patch(f"{__name__}.OFFSET", 20):
        after = function(look)()
        with cluster.session() as session:
            assert session.run([before, after]) == [10.0, 20.0]
            assert cluster.run(add_offset, 0) == [20, 20]
            assert session.run([before, after, function(look)()]) == [10.0, 20.0, 20.0]


def test_operations_and_calls_take_turns(cluster: LocalCluster) -> None:
    with cluster.session() as session:
        for _ in range(2):
            assert session.run(function(OPERATIONS["function"])()) == 9.0
            assert cluster.run(lambda: again(square)(2)) == [4, 4]


def test_tasks_send_operations_to_each_other(cluster: LocalCluster) -> None:
    other = cluster.workers[1].target

    def from_task() -> Any:
        from pytest_localcluster import Session

        with Session(other) as session:
            return session.run(function(lambda: float(again(square)(5)))())

    assert cluster.workers[0].run(from_task) == 25.0


def test_threads_use_the_module_itself() -> None:
    here = sys.modules[__name__]
    with LocalCluster(workers=1, ps=0, launcher="thread") as threads:
        assert threads.workers[0].run(lambda: again(Metric)) is Metric
        with threads.session() as session:
            assert session.run(function(OPERATIONS["class"])()) == 1.0
            assert session.run(function(OPERATIONS["fetched"])()) == 10.0
            assert session.run(function(lambda: float(square(3)))()) == 9.0
    assert sys.modules[__name__] is here
    assert here.square is square


def test_a_task_whose_test_process_is_gone_raises_at_once() -> None:
    """A name that nobody can answer for is an AttributeError, as of any module."""
    from pytest_localcluster._core import stand_ins

    home = stand_ins.Home("elsewhere", "test_nowhere", "/nowhere/test_nowhere.py", "", None, True)
    module = stand_ins.stand_in(*home)
    with pytest.raises(AttributeError, match="has no attribute 'anything'"):
        _ = module.anything
    assert "test_nowhere" not in sys.modules
