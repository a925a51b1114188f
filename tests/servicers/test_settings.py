"""Interceptors, channel arguments, compression and a limit, as grpc.server takes them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from pytest_localcluster import (
    ClusterConfig,
    LocalCluster,
    ServicerRuntime,
    SpecError,
    StartError,
    current_task,
)
from pytest_localcluster._clock import Deadline, poll
from tests.servicers import services
from tests.servicers.services import adder, call, check

MakeCluster = Callable[..., LocalCluster]


def add(server: Any) -> None:
    """Register nothing."""


class Noting(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    def __init__(self, name: str) -> None:
        self.name = name

    def intercept_service(self, continuation: Any, call: Any) -> Any:
        if not call.method.startswith("/grpc.health"):
            services.heard.append(f"{self.name} {call.method} {current_task().task}")
        return continuation(call)


class AsyncNoting(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        self.name = name

    async def intercept_service(self, continuation: Any, call: Any) -> Any:
        if not call.method.startswith("/grpc.health"):
            services.heard.append(f"{self.name} {call.method} {current_task().task}")
        return await continuation(call)


class Doubling(grpc.ServerInterceptor):  # type: ignore[misc]
    """Changes what a method is given."""

    def intercept_service(self, continuation: Any, call: Any) -> Any:
        handler = continuation(call)
        if not call.method.startswith("/tests."):
            return handler
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: handler.unary_unary(request * 2, context)
        )


class Plain:
    """An interceptor by its method alone."""

    def intercept_service(self, continuation: Any, call: Any) -> Any:
        return continuation(call)


class Raising(grpc.ServerInterceptor):  # type: ignore[misc]
    def intercept_service(self, continuation: Any, call: Any) -> Any:
        raise LookupError("no such user")


async def say(request: bytes, context: Any) -> bytes:
    services.heard.append(request.decode())
    return request


def echo(request: bytes, context: Any) -> bytes:
    services.heard.append(request.decode())
    return request


def heard_and_forget() -> list[str]:
    heard = services.heard[:]
    services.heard.clear()
    return heard


def a_list() -> list[Any]:
    return []


@pytest.fixture(autouse=True)
def _nothing_was_heard() -> None:
    services.heard.clear()


class TestInterceptors:
    @pytest.mark.parametrize(("function", "kind"), [(echo, Noting), (say, AsyncNoting)])
    @pytest.mark.parametrize("factory", [False, True])
    @pytest.mark.parametrize("token", [False, True])
    def test_they_see_each_call_in_order(
        self, make_cluster: MakeCluster, function: Any, kind: Any, factory: bool, token: bool
    ) -> None:
        interceptors: Any = [kind("first"), kind("second")]
        if factory:
            interceptors = lambda: [kind("first"), kind("second")]  # noqa: E731
        runtime = ServicerRuntime(ps=adder("Say", function), interceptors=interceptors, token=token)
        (ps,) = make_cluster(runtime, ps=1).ps
        assert call(ps.channel(), "Say", b"1") == "1"
        assert ps.run(heard_and_forget) == [
            "first /tests.Own/Say /job:ps/task:0",
            "second /tests.Own/Say /job:ps/task:0",
            "1",
        ]
        if token:
            with (
                grpc.insecure_channel(ps.target) as channel,
                pytest.raises(grpc.RpcError, match="without its cluster's token"),
            ):
                call(channel, "Say", b"1")
            assert ps.run(heard_and_forget) == [], "they see only those who may call"

    def test_one_that_changes_a_call(self, make_cluster: MakeCluster) -> None:
        runtime = ServicerRuntime(ps=adder("Say", echo), interceptors=[Doubling(), Plain()])
        (ps,) = make_cluster(runtime, ps=1).ps
        assert call(ps.channel(), "Say", b"1") == "11"
        assert check(ps) == "SERVING"

    def test_one_that_raises(self, make_cluster: MakeCluster) -> None:
        runtime = ServicerRuntime(ps=adder("Say", echo), interceptors=(Raising(),))
        (ps,) = make_cluster(runtime, ps=1).ps
        with pytest.raises(grpc.RpcError):
            call(ps.channel(), "Say", b"1")
        assert "LookupError: no such user" in ps.log.text()

    def test_plain_services_and_one_for_asyncio(self, make_cluster: MakeCluster) -> None:
        runtime = ServicerRuntime(ps=adder("Say", echo), interceptors=[AsyncNoting("it")])
        (ps,) = make_cluster(runtime, ps=1).ps
        assert call(ps.channel(), "Say", b"1") == "1"
        assert ps.run(heard_and_forget) == ["it /tests.Own/Say /job:ps/task:0", "1"]

    @pytest.mark.parametrize(
        ("adders", "interceptors", "why"),
        [
            (adder("Say", say), [Noting("it")], "/tests.Own/Say is a coroutine function"),
            (adder("Say", say), lambda: [Noting("it")], "/tests.Own/Say is a coroutine function"),
            (
                adder("Say", echo),
                [AsyncNoting("other"), Noting("it")],
                "AsyncNoting is an interceptor of grpc.aio",
            ),
        ],
    )
    def test_one_of_the_other_kind(
        self, make_cluster: MakeCluster, adders: Any, interceptors: Any, why: str
    ) -> None:
        with pytest.raises(StartError) as caught:
            make_cluster(ServicerRuntime(ps=adders, interceptors=interceptors), ps=1)
        assert isinstance(caught.value.__cause__, SpecError)
        assert (
            "the interceptor Noting is one for grpc.server, and /job:ps/task:0 serves by "
            f"grpc.aio: {why}"
        ) in str(caught.value)
        remedy = caught.value.__cause__.remedy or ""
        assert "derive Noting from grpc.aio.ServerInterceptor" in remedy

    def test_a_factory_that_returns_none(self, make_cluster: MakeCluster) -> None:
        runtime = ServicerRuntime(ps=add, interceptors=lambda: [Noting])
        with pytest.raises(
            StartError, match="<lambda>.. returned a list that has the class Noting"
        ):
            make_cluster(runtime, ps=1)
        runtime = ServicerRuntime(ps=add, interceptors=lambda: None)  # type: ignore[arg-type, return-value]
        with pytest.raises(StartError, match="is a list of gRPC server interceptors"):
            make_cluster(runtime, ps=1)

    def test_those_that_cannot_go_into_a_process(self) -> None:
        class Locked(Plain):
            def __init__(self) -> None:
                self.lock = threading.Lock()

        runtime = ServicerRuntime(ps=add, interceptors=[Locked()])
        with pytest.raises(SpecError, match="interceptors cannot go into a task") as caught:
            LocalCluster(runtime=runtime, workers=0)
        assert caught.value.remedy == (
            "make them in the task: interceptors=lambda: [MyInterceptor()]"
        )
        LocalCluster(runtime=runtime, workers=0, launcher="thread")
        LocalCluster(runtime=ServicerRuntime(ps=add, interceptors=lambda: [Locked()]), workers=0)


@pytest.mark.parametrize("function", [echo, say])
class TestOptions:
    def test_they_go_before_ours(self, make_cluster: MakeCluster, function: Any) -> None:
        options = [("grpc.max_receive_message_length", 100), ("grpc.so_reuseport", 1)]
        runtime = ServicerRuntime(ps=adder("Say", function), options=options)
        first, second = make_cluster(runtime, ps=2).ps
        assert call(first.channel(), "Say", b"1") == "1"
        with pytest.raises(grpc.RpcError) as caught:
            call(first.channel(), "Say", bytes(1000))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(RuntimeError, match="Failed to bind"):
            _bind_beside(second.address)

    def test_without_them_messages_have_no_limit(
        self, make_cluster: MakeCluster, function: Any
    ) -> None:
        runtime = ServicerRuntime(
            ps=adder("Say", function), compression=grpc.Compression.Gzip, options=()
        )
        (ps,) = make_cluster(runtime, ps=1).ps
        assert len(call(ps.channel(), "Say", b"1" * 5_000_000)) == 5_000_000

    def test_a_limit(self, make_cluster: MakeCluster, function: Any) -> None:
        def add(server: Any) -> None:
            begun, end = threading.Event(), threading.Event()

            def wait(request: bytes, context: Any) -> bytes:
                begun.set()
                return str(end.wait(60)).encode()

            add.begun, add.end = begun, end  # type: ignore[attr-defined]
            adder("Wait", wait, "tests.Wait")(server)
            adder("Say", function)(server)

        runtime = ServicerRuntime(ps=add, maximum_concurrent_rpcs=1)
        cluster = LocalCluster(workers=0, ps=1, runtime=runtime, launcher="thread")
        with cluster:
            channel = cluster.ps[0].channel()
            waiting = channel.unary_unary("/tests.Wait/Wait").future(b"")
            assert add.begun.wait(20)  # type: ignore[attr-defined]
            with pytest.raises(grpc.RpcError) as caught:
                call(channel, "Say", b"1")
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            add.end.set()  # type: ignore[attr-defined]
            assert waiting.result(timeout=20) == b"True"
            # Older releases give the place back only after the answer was sent.
            assert poll(lambda: _answer(channel) == "1", Deadline(20))


def _answer(channel: Any) -> str:
    try:
        return str(call(channel, "Say", b"1", wait_for_ready=True))
    except grpc.RpcError as error:
        return str(error.code())


def _bind_beside(address: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 1)])
    server.add_insecure_port(address.replace("localhost", "127.0.0.1"))


@pytest.mark.parametrize(
    ("options", "message", "remedy"),
    [
        (
            {"intercepters": [Plain()]},
            "ServicerRuntime has no option 'intercepters', and it is no job either: [<tests.",
            (
                "is 'interceptors' meant? The options are health, token, interceptors, options, "
                "compression, maximum_concurrent_rpcs"
            ),
        ),
        ({"interceptor": Plain()}, "no option 'interceptor'", "is 'interceptors' meant?"),
        ({"intercepters": []}, "no option 'intercepters'", "is 'interceptors' meant?"),
        ({"option": [("grpc.x", 1)]}, "no option 'option'", "is 'options' meant?"),
        ({"compresion": grpc.Compression.Gzip}, "'compresion'", "is 'compression' meant?"),
        ({"max_concurrent_rpcs": 3}, "3 is no function", "is 'maximum_concurrent_rpcs' meant?"),
        ({"Tokens": True}, "True is no function", "is 'token' meant?"),
        ({"max_workers": 10}, "for job 'max_workers' ServicerRuntime takes functions", ""),
        (
            {"interceptors": Plain()},
            "interceptors is a list of gRPC server interceptors, or a function without parameters",
            "write interceptors=[MyInterceptor()]",
        ),
        (
            {"interceptors": {"ps": [Plain()]}},
            "interceptors is a list of gRPC server interceptors",
            'runtime={"worker": ServicerRuntime(...), "ps": ServicerRuntime(...)}',
        ),
        ({"interceptors": [Plain]}, "interceptors has the class Plain", "write Plain()"),
        ({"interceptors": Plain}, "not <class", "write interceptors=[MyInterceptor()]"),
        ({"interceptors": [None]}, "has None, which is no server interceptor", "derive from"),
        (
            {"interceptors": lambda server: None},
            "cannot be called without arguments: missing a required argument: 'server'",
            "a job called 'interceptors' goes into the mapping, {'interceptors': ...}",
        ),
        ({"options": "grpc.x"}, "options is a list of pairs", "a job called 'options'"),
        ({"options": {"grpc.x": 1}}, "not {'grpc.x': 1}", "write options=list({...}.items())"),
        ({"options": [("grpc.x",)]}, "('grpc.x',) is no such pair", "write options=["),
        ({"options": [(1, 2)]}, "(1, 2) is no such pair", "write options=["),
        ({"options": [("grpc.x", None)]}, "argument 'grpc.x' has the value None", "integers"),
        ({"options": [("grpc.x", 1.5)]}, "argument 'grpc.x' has the value 1.5", "integers"),
        ({"compression": "gzip"}, "compression is an element of grpc.Compression, not 'gzip'", ""),
        ({"compression": 2}, "not 2", "write compression=grpc.Compression.Gzip"),
        ({"maximum_concurrent_rpcs": 0}, "is a number of calls from 1 up, not 0", "=8"),
        ({"maximum_concurrent_rpcs": True}, "not True", "leave it out for any number"),
        ({"maximum_concurrent_rpcs": "8"}, "not '8'", "leave it out for any number"),
        ({"maximum_concurrent_rpcs": add}, "not <function add", "a job called"),
    ],
)
def test_what_is_no_option(options: dict[str, Any], message: str, remedy: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        ServicerRuntime(ps=add, **options)
    assert remedy in (caught.value.remedy or "")


def test_jobs_that_are_called_like_options() -> None:
    runtime = ServicerRuntime({"options": add, "interceptors": [add]}, tokens=add)
    assert list(runtime.adders) == ["options", "interceptors", "tokens"]
    assert repr(runtime) == (
        "ServicerRuntime({'options': add, 'interceptors': add, 'tokens': add})"
    )


def test_equality_and_reprs() -> None:
    plain = Plain()

    def runtime(**changed: Any) -> ServicerRuntime:
        options: dict[str, Any] = {
            "interceptors": [plain],
            "options": [("grpc.x", 1)],
            "compression": grpc.Compression.Gzip,
            "maximum_concurrent_rpcs": 3,
        }
        return ServicerRuntime(ps=add, **{**options, **changed})

    assert runtime() == runtime(options=(["grpc.x", 1],))
    assert hash(runtime()) == hash(runtime())
    assert ClusterConfig(runtime=runtime()) == ClusterConfig(runtime=runtime())
    different: list[dict[str, Any]] = [
        {"interceptors": [Plain()]},
        {"options": []},
        {"compression": None},
        {"maximum_concurrent_rpcs": 4},
        {"interceptors": a_list},
    ]
    for changed in different:
        assert runtime() != runtime(**changed)
    assert repr(runtime()) == (
        "ServicerRuntime(ps=add, interceptors=[Plain], options=[['grpc.x', 1]], "
        "compression=Compression.Gzip, maximum_concurrent_rpcs=3)"
    )
