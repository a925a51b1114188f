"""The border of a task: nothing is lost of what goes in, what comes back, and what is logged."""

from __future__ import annotations

import asyncio
import enum
import logging
import multiprocessing
import pickle
import threading
import typing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock
from urllib.error import HTTPError

import grpc
import pytest

from pytest_localcluster import LocalCluster, ServicerRuntime, UnsupportedError, current_task
from tests.conformance.conftest import JOBS, PROCESSES, MakeCluster

log = logging.getLogger("conformance")
LOCK = threading.Lock()
counter = 0


class Colour(enum.Enum):
    RED = 1


class Sample(NamedTuple):
    x: float


@dataclass
class Pair:
    left: Sample
    right: Pair | None = None


class Unreachable(ConnectionError):
    def __init__(self, host: str, *, attempts: int) -> None:
        super().__init__(f"{host} unreachable\nafter {attempts} attempts")
        self.attempts = attempts


class Locked(RuntimeError):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()
        self.seconds = 3


def square(x: int) -> int:
    return x * x


def ask_square(x: int) -> int:
    return square(x)


def round_trip(value: Any) -> bool:
    again = pickle.loads(pickle.dumps(value))
    return again is value if isinstance(value, (type, enum.Enum)) else bool(again == value)


def pool_of(method: str) -> list[int]:
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return list(pool.map(square, [1, 2, 3]))


async def later(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


class TestIn:
    pytestmark = pytest.mark.usefixtures("python")

    @pytest.mark.parametrize(
        "value",
        [Sample, square, Sample(1.0), Colour.RED, Pair(Sample(1.0))],
        ids=lambda v: f"{v}"[:9],
    )
    def test_what_the_test_module_defines_pickles_in_a_task(
        self, cluster: LocalCluster, value: object
    ) -> None:
        assert cluster.run(round_trip, value) == [True, True]

    def test_a_class_is_the_same_class_in_every_call(self, cluster: LocalCluster) -> None:
        ps = cluster.ps[0]
        assert ps.run(lambda: id(Sample)) == ps.run(lambda: id(Sample))
        assert ps.run(lambda: Pair(Sample(1.0))) == Pair(Sample(1.0))
        assert ps.run(lambda: Sample) is Sample

    def test_type_hints_and_patches_find_the_module(self, cluster: LocalCluster) -> None:
        def look() -> tuple[int, int, bool]:
            with mock.patch(f"{__name__}.square", return_value=-1):
                patched = ask_square(3)
            return patched, ask_square(3), typing.get_type_hints(Pair)["left"] is Sample

        assert cluster.ps[0].run(look) == (-1, 9, True)

    def test_a_changed_global_is_seen_by_the_next_call(
        self, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert cluster.ps[0].run(lambda: counter) == 0
        monkeypatch.setattr(f"{__name__}.counter", 5)
        assert cluster.ps[0].run(lambda: counter) == 5

    def test_coroutine_functions_are_awaited(self, cluster: LocalCluster) -> None:
        assert cluster.run(later, 1) == [2, 2]
        assert cluster.ps[0].submit(later, 2).result(30) == 3

    def test_a_generator_is_refused(self, cluster: LocalCluster) -> None:
        def count() -> Any:
            yield 1

        with pytest.raises(TypeError, match="generator"):
            cluster.ps[0].run(count)

    def test_a_handle_arrives_as_a_view(self, cluster: LocalCluster, launcher: str) -> None:
        ps = cluster.ps[0]
        assert cluster.run(lambda: ps.address) == [ps.address, ps.address]
        assert cluster.run(lambda: str(cluster.spec)) == [str(cluster.spec)] * 2
        if launcher != "thread":
            with pytest.raises(UnsupportedError, match="kill"):
                cluster.run(lambda: ps.kill())


@pytest.mark.parametrize("launcher", PROCESSES, indirect=True)
class TestProcesses:
    pytestmark = pytest.mark.usefixtures("python")

    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_children_of_a_task_find_the_test_module(
        self, cluster: LocalCluster, method: str
    ) -> None:
        assert cluster.ps[0].run(pool_of, method, timeout=60) == [1, 4, 9]

    def test_what_cannot_go_in_is_named(self, cluster: LocalCluster) -> None:
        with pytest.raises(TypeError, match="LOCK is a _thread.lock"):
            cluster.ps[0].run(lambda: LOCK.locked())


def call_nobody() -> None:
    with grpc.insecure_channel("localhost:1") as channel:
        channel.unary_unary("/no/such")(b"", timeout=20)


def not_found() -> None:
    raise HTTPError("http://x", 404, "gone", {}, None)  # type: ignore[arg-type]


def unreachable() -> None:
    raise Unreachable("ps0", attempts=3)


def locked() -> None:
    raise Locked("busy")


def several() -> None:
    raise ExceptionGroup("all of these", [Locked("one"), ValueError("two")])


class TestOut:
    pytestmark = pytest.mark.usefixtures("python")

    @pytest.mark.parametrize(
        ("kind", "message", "function"),
        [
            (grpc.RpcError, "UNAVAILABLE", call_nobody),
            (HTTPError, "404", not_found),
            (Unreachable, "ps0 unreachable", unreachable),
            (Locked, "busy", locked),
            (ExceptionGroup, "all of these", several),
        ],
        ids=lambda value: getattr(value, "__name__", ""),
    )
    def test_an_exception_keeps_its_type(
        self, cluster: LocalCluster, kind: type[BaseException], message: str, function: Any
    ) -> None:
        with pytest.raises(kind, match=message) as caught:
            cluster.ps[0].run(function)
        error: Any = caught.value
        if kind is grpc.RpcError:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        elif kind is Unreachable:
            assert error.attempts == 3
        elif kind is Locked:
            assert error.seconds == 3
        elif kind is ExceptionGroup:
            assert error.subgroup(Locked) is not None

    def test_the_cause_travels_along(self, cluster: LocalCluster) -> None:
        def fail() -> None:
            try:
                unreachable()
            except OSError as error:
                raise ValueError("no data") from error

        with pytest.raises(ValueError, match="no data") as caught:
            cluster.ps[0].run(fail)
        chain: list[BaseException | None] = [caught.value.__cause__]
        while chain[-1] is not None:
            chain.append(chain[-1].__cause__)
        assert any(isinstance(one, Unreachable) for one in chain)


class TestLogging:
    pytestmark = pytest.mark.usefixtures("python")

    def test_records_are_the_tests(
        self, cluster: LocalCluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger=log.name)

        def step() -> None:
            log.debug("unseen")
            log.info("step %d", 1)
            log.warning("nan")

        cluster.ps[0].run(step)
        records = [record for record in caplog.records if record.name == log.name]
        assert [record.getMessage() for record in records] == ["step 1", "nan"]

    def test_a_level_set_while_the_cluster_runs(
        self, cluster: LocalCluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG, logger=log.name):
            cluster.ps[0].run(lambda: log.debug("seen"))
        cluster.ps[0].run(lambda: log.debug("unseen"))
        assert [r.getMessage() for r in caplog.records if r.name == log.name] == ["seen"]


async def echo(request: bytes, context: Any) -> bytes:
    return request + str(current_task().task).encode()


def add_echo(server: Any) -> None:
    handler = grpc.unary_unary_rpc_method_handler(echo)
    handlers = grpc.method_handlers_generic_handler("conformance.Echo", {"Say": handler})
    server.add_generic_rpc_handlers((handlers,))


def test_async_services(launcher: str, make_cluster: MakeCluster, runtime: str) -> None:
    if runtime != "servicers":
        pytest.skip("only servicers serve services of the user's")
    fields: dict[str, Any] = {"start_timeout": 180} if launcher == "ray" else {}
    services = ServicerRuntime(
        dict.fromkeys(JOBS, add_echo), options=[("grpc.max_concurrent_streams", 8)]
    )
    with LocalCluster(launcher=launcher, runtime=services, workers=0, ps=1, **fields) as cluster:
        say = cluster.ps[0].channel().unary_unary("/conformance.Echo/Say")
        assert say(b"hello ", timeout=30) == b"hello /job:ps/task:0"


@pytest.mark.usefixtures("runtime")
def test_a_cluster_in_an_async_with(launcher: str) -> None:
    fields: dict[str, Any] = {"start_timeout": 180} if launcher == "ray" else {}

    async def use() -> int:
        async with LocalCluster(workers=1, ps=0, launcher=launcher, **fields) as cluster:
            return await asyncio.wrap_future(cluster.workers[0].submit(later, 4))

    assert asyncio.run(use()) == 5
