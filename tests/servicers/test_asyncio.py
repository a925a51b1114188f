"""Services for asyncio: served by grpc.aio, with all that other services have."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc

from pytest_localcluster import (
    LocalCluster,
    PortError,
    ServicerRuntime,
    SpecError,
    StartError,
    StopError,
    current_task,
)
from tests.servicers import services
from tests.servicers.services import call, check

MakeCluster = Callable[..., LocalCluster]
Task = Any


def me() -> str:
    return str(current_task().task)


async def say(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(0)
    return f"{me()} {request.decode()}".encode()


async def spell(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for letter in request.decode():
        yield f"{me()} {letter}".encode()


async def write(request: bytes, context: Any) -> None:
    for letter in request.decode():
        await context.write(f"{me()} {letter}".encode())


async def join(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b" ".join([me().encode(), *[request async for request in requests]])


async def chat(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield f"{me()} {request.decode()}".encode()


def plain(request: bytes, context: Any) -> bytes:
    return f"{me()} {request.decode()} {threading.current_thread().name}".encode()


UNARY, RESPONSES = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler

HANDLERS = {
    "Say": UNARY(say),
    "Spell": RESPONSES(spell),
    "Write": RESPONSES(write),
    "Join": grpc.stream_unary_rpc_method_handler(join),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Plain": UNARY(plain),
    "PlainSpell": RESPONSES(services.spell),
    "PlainJoin": grpc.stream_unary_rpc_method_handler(services.join),
    "PlainChat": grpc.stream_stream_rpc_method_handler(services.chat),
}


def add_registered(server: Any) -> None:
    server.add_registered_method_handlers("tests.Own", HANDLERS)


def add_generic(server: Any) -> None:
    handler = grpc.method_handlers_generic_handler("tests.Own", HANDLERS)
    server.add_generic_rpc_handlers([handler])


async def add_later(server: Any, task: Task) -> None:
    await asyncio.sleep(0)
    add_registered(server)


@pytest.mark.parametrize("add", [add_registered, add_generic, add_later])
def test_calls_of_all_kinds(make_cluster: MakeCluster, add: Any) -> None:
    cluster = make_cluster(ServicerRuntime(ps=add), ps=2)
    for index, ps in enumerate(cluster.ps):
        name = f"/job:ps/task:{index}"
        letters = [f"{name} {letter}".encode() for letter in "ab"]
        channel = ps.channel()
        assert call(channel, "Say", b"1") == f"{name} 1"
        assert call(channel, "Plain", b"1").startswith(f"{name} 1 {name} at {ps.address} #")
        for method in ("Spell", "Write", "PlainSpell"):
            responses = channel.unary_stream(f"/tests.Own/{method}")(b"ab", timeout=20)
            assert list(responses) == letters
        for prefix in ("", "Plain"):
            joined = channel.stream_unary(f"/tests.Own/{prefix}Join")
            assert joined(iter([b"a", b"b"]), timeout=20) == f"{name} a b".encode()
            chatted = channel.stream_stream(f"/tests.Own/{prefix}Chat")
            assert list(chatted(iter([b"a", b"b"]), timeout=20)) == letters
        assert [check(ps, service) for service in ("", "tests.Own")] == ["SERVING"] * 2
        assert ps.log.text() == ""
    cluster.ps[0].restart()
    assert call(cluster.ps[0].channel(), "Say", b"2") == "/job:ps/task:0 2"


class Odd:
    async def __call__(self, request: bytes, context: Any) -> bytes:
        return b"object"

    async def method(self, request: bytes, context: Any) -> bytes:
        return b"method"

    def plain(self, request: bytes, context: Any) -> bytes:
        return b"plain"


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def made_plain(function: Callable[..., Awaitable[bytes]]) -> Callable[..., bytes]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> bytes:
        return asyncio.run(function(*args))  # type: ignore[arg-type]

    return wrapper


ODD: dict[str, tuple[Any, bytes]] = {
    "a partial": (functools.partial(say), b"/job:ps/task:0 1"),
    "an object": (Odd(), b"object"),
    "a method": (Odd().method, b"method"),
    "a decorated one": (decorated(say), b"/job:ps/task:0 1"),
    "a decorated partial": (functools.partial(decorated(say)), b"/job:ps/task:0 1"),
    "one that runs a loop": (made_plain(say), b"/job:ps/task:0 1"),
}


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("odd", ODD)
def test_whatever_the_function_is(make_cluster: MakeCluster, odd: str, beside: bool) -> None:
    function, expected = ODD[odd]

    def add(server: Any) -> None:
        handlers = {"Odd": UNARY(function)}
        server.add_registered_method_handlers("tests.Own", handlers)
        if beside:
            server.add_registered_method_handlers("tests.Async", {"Say": UNARY(say)})

    (ps,) = make_cluster(ServicerRuntime(ps=add), ps=1).ps
    assert call(ps.channel(), "Odd", b"1").encode() == expected


def test_a_decorated_stream(make_cluster: MakeCluster) -> None:
    def add(server: Any) -> None:
        handlers = {"Spell": RESPONSES(decorated(spell)), "Write": RESPONSES(decorated(write))}
        server.add_registered_method_handlers("tests.Own", handlers)

    (ps,) = make_cluster(ServicerRuntime(ps=add), ps=1).ps
    for method in ("Spell", "Write"):
        responses = ps.channel().unary_stream(f"/tests.Own/{method}")(b"a", timeout=20)
        assert list(responses) == [b"/job:ps/task:0 a"]


def test_generated_code(make_cluster: MakeCluster) -> None:
    servicer = health.aio.HealthServicer()
    add = functools.partial(health_pb2_grpc.add_HealthServicer_to_server, servicer)
    (ps,) = make_cluster(ServicerRuntime(ps=add, health=False), ps=1).ps
    assert check(ps) == "SERVING"


class Generic(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    async def answer(self, request: bytes, context: Any) -> bytes:
        return b"generic"

    def service(self, details: Any) -> Any:
        return UNARY(self.answer) if details.method == "/tests.Own/Any" else None


def test_a_generic_handler_of_ones_own(make_cluster: MakeCluster) -> None:
    runtime = ServicerRuntime(ps=lambda server: server.add_generic_rpc_handlers([Generic()]))
    channel = make_cluster(runtime, ps=1).ps[0].channel()
    assert call(channel, "Any") == "generic"
    with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
        call(channel, "Other")


class Counter:
    """Things for asyncio that are made before the server is."""

    def __init__(self, peer: str) -> None:
        self.count = 0
        self.changed = asyncio.Condition()
        self.peer = grpc.aio.insecure_channel(peer)
        self.counting = asyncio.create_task(self.go())

    async def go(self) -> None:
        while True:
            async with self.changed:
                self.count += 1
                self.changed.notify_all()
            await asyncio.sleep(0.01)

    async def wait(self, request: bytes, context: Any) -> bytes:
        async with self.changed:
            await self.changed.wait_for(lambda: self.count > 3)
        return me().encode()

    async def ask(self, request: bytes, context: Any) -> bytes:
        answer: bytes = await self.peer.unary_unary("/tests.Counter/Wait")(b"", timeout=20)
        return answer


def add_counter(server: Any, task: Task) -> None:
    assert isinstance(server, grpc.aio.Server)
    assert current_task().task == task.task
    other = 1 - task.task.index
    counter = Counter(task.cluster_spec.task_address("ps", other))
    handlers = {"Wait": UNARY(counter.wait), "Ask": UNARY(counter.ask)}
    server.add_registered_method_handlers("tests.Counter", handlers)


async def add_counter_later(server: Any, task: Task) -> None:
    add_counter(server, task)


class TestAdders:
    @pytest.mark.parametrize("links", [False, True])
    @pytest.mark.parametrize(
        "add",
        [
            add_counter,
            add_counter_later,
            functools.partial(add_counter_later),
            lambda server, task: add_counter(server, task),
            lambda server, task: add_counter_later(server, task),
        ],
    )
    def test_what_needs_the_loop(self, make_cluster: MakeCluster, add: Any, links: bool) -> None:
        cluster = make_cluster(ServicerRuntime(ps=add), ps=2, links=links)
        for server, other in zip(cluster.ps, cluster.ps[::-1], strict=True):
            assert call(server.channel(), "Ask", service="tests.Counter") == str(other.task)
        cluster.stop()

    def test_several(self, make_cluster: MakeCluster) -> None:
        runtime = ServicerRuntime(ps=[services.add_echo, add_later, add_counter])
        (ps, _) = make_cluster(runtime, ps=2).ps
        assert call(ps.channel(), "Say", b"1", service=services.ECHO) == "/job:ps/task:0 1"
        assert call(ps.channel(), "Say", b"1") == "/job:ps/task:0 1"

    def test_one_for_plain_services(self, make_cluster: MakeCluster) -> None:
        """What it starts in the loop goes on."""

        async def add(server: Any) -> None:
            ticked = threading.Event()

            async def tick() -> None:
                await asyncio.sleep(0.01)
                ticked.set()

            add.tick = asyncio.create_task(tick())  # type: ignore[attr-defined]

            def wait(request: bytes, context: Any) -> bytes:
                return str(ticked.wait(20)).encode()

            services.adder("Wait", wait)(server)

        (ps,) = make_cluster(ServicerRuntime(ps=add), ps=1).ps
        assert call(ps.channel(), "Wait") == "True"

    @pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt])
    def test_one_that_raises(self, make_cluster: MakeCluster, error: type[BaseException]) -> None:
        async def add(server: Any) -> None:
            add_registered(server)
            raise error("no model there")

        with pytest.raises(StartError) as caught:
            make_cluster(ServicerRuntime(ps=add), ps=1)
        assert f"{error.__name__}: no model there" in str(caught.value)
        assert 'raise error("no model there")' in (caught.value.evidence or "")

    @pytest.mark.parametrize("line", ["start", "wait_for_termination"])
    def test_one_that_takes_the_server_for_its_own(
        self, make_cluster: MakeCluster, line: str
    ) -> None:
        async def add(server: Any) -> None:
            add_registered(server)
            await getattr(server, line)()

        with pytest.raises(StartError, match="is not for functions that register services") as e:
            make_cluster(ServicerRuntime(ps=add), ps=1)
        assert isinstance(e.value.__cause__, SpecError)

    @pytest.mark.parametrize("late", [False, True])
    def test_a_port_of_the_users_own(self, make_cluster: MakeCluster, late: bool) -> None:
        async def add(server: Any) -> None:
            async def tell(request: bytes, context: Any) -> bytes:
                return str(port).encode()

            register = services.adder("Port", tell)
            if late:
                register(server)
            port = server.add_secure_port("localhost:0", grpc.local_server_credentials())
            if not late:
                register(server)

        (ps,) = make_cluster(ServicerRuntime(ps=add), ps=1).ps
        port = call(ps.channel(), "Port")
        credentials = grpc.local_channel_credentials()
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            assert call(channel, "Port") == port

    def test_a_port_before_the_services(self, make_cluster: MakeCluster) -> None:
        hidden = [services.adder("Say", say)]  # from a look at the function before it is called

        def bare(server: Any) -> None:
            server.add_secure_port("localhost:0", grpc.local_server_credentials())
            hidden[0](server)

        with pytest.raises(StartError, match="has a port already on a server without asyncio"):
            make_cluster(ServicerRuntime(ps=bare), ps=1)

    def test_a_port_that_is_taken(self, make_cluster: MakeCluster) -> None:
        import socket

        (ps,) = make_cluster(ServicerRuntime(ps=add_later), ps=1).ps
        ps.stop()
        with socket.socket() as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind(("127.0.0.1", int(ps.address.rpartition(":")[2])))
            stranger.listen()
            with pytest.raises(StartError, match="/job:ps/task:0 cannot serve: its port") as e:
                ps.restart()
            assert isinstance(e.value.__cause__, PortError)
        ps.restart()
        assert call(ps.channel(), "Say", b"1") == "/job:ps/task:0 1"


class TestErrors:
    def test_what_is_in_the_log(self, make_cluster: MakeCluster) -> None:
        async def fail(request: bytes, context: Any) -> bytes:
            raise LookupError(f"nothing called {request.decode()}")

        async def leave(request: bytes, context: Any) -> bytes:
            raise SystemExit(3)

        async def fail_late(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield b"first"
            raise LookupError("no second")

        async def abort(request: bytes, context: Any) -> bytes:
            await context.abort(grpc.StatusCode.NOT_FOUND, "looked everywhere")
            return b""

        def add(server: Any) -> None:
            handlers = {
                "Fail": UNARY(fail),
                "Leave": UNARY(leave),
                "Late": RESPONSES(fail_late),
                "Abort": UNARY(abort),
            }
            server.add_registered_method_handlers("tests.Own", handlers)

        first, second = make_cluster(ServicerRuntime(ps=add), ps=2).ps
        channel = first.channel()
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, "Abort")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert caught.value.details() == "looked everywhere"
        assert first.log.text() == ""
        with pytest.raises(grpc.RpcError, match="nothing called it"):
            call(channel, "Fail", b"it")
        assert first.log.text().count("\nLookupError: nothing called it") == 1
        with pytest.raises(grpc.RpcError, match="SystemExit in /tests.Own/Leave: 3"):
            call(channel, "Leave")
        responses = channel.unary_stream("/tests.Own/Late")(b"", timeout=20)
        assert next(responses) == b"first"
        with pytest.raises(grpc.RpcError, match="no second"):
            next(responses)
        assert first.log.text().count("\nLookupError: no second") == 1
        assert second.log.text() == ""

    @pytest.mark.parametrize("how", ["deadline", "cancel"])
    def test_a_call_that_is_given_up(self, make_cluster: MakeCluster, how: str) -> None:
        def add(server: Any) -> None:
            begun, cancelled = threading.Event(), threading.Event()

            async def wait(request: bytes, context: Any) -> bytes:
                begun.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.set()
                    raise
                return b""

            def is_begun(request: bytes, context: Any) -> bytes:
                return str(begun.wait(20)).encode()

            def is_cancelled(request: bytes, context: Any) -> bytes:
                return str(cancelled.wait(20)).encode()

            handlers = {"Wait": UNARY(wait), "Begun": UNARY(is_begun), "Over": UNARY(is_cancelled)}
            server.add_registered_method_handlers("tests.Own", handlers)

        (ps,) = make_cluster(ServicerRuntime(ps=add), ps=1).ps
        channel = ps.channel()
        seconds = 0.5 if how == "deadline" else 60
        waiting = channel.unary_unary("/tests.Own/Wait").future(b"", timeout=seconds)
        assert call(channel, "Begun") == "True"
        if how == "cancel":
            waiting.cancel()
        assert call(channel, "Over") == "True"
        assert ps.log.text() == ""


def test_the_token(make_cluster: MakeCluster) -> None:
    (ps,) = make_cluster(ServicerRuntime(ps=add_later, token=True), ps=1).ps
    assert call(ps.channel(), "Say", b"1") == "/job:ps/task:0 1"
    assert check(ps) == "SERVING"
    with grpc.insecure_channel(ps.target) as channel:
        for method in ("Say", "Plain"):
            with pytest.raises(grpc.RpcError, match="was called without its cluster's") as caught:
                call(channel, method)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError, match="another token than this call's"):
            call(channel, "Say", metadata=[("localcluster-token", "guess")])
        responses = channel.unary_stream("/tests.Own/Spell")(b"ab", timeout=20)
        with pytest.raises(grpc.RpcError, match="was called without its cluster's"):
            next(responses)
    assert ps.log.text() == ""


@pytest.mark.parametrize("launcher", ["thread"], indirect=True)
class TestStops:
    def _stuck(self, make_cluster: MakeCluster, wait: Any) -> LocalCluster:
        def add(server: Any) -> None:
            handlers = {"Wait": UNARY(wait), "Begun": UNARY(is_begun)}
            server.add_registered_method_handlers("tests.Stuck", handlers)

        def is_begun(request: bytes, context: Any) -> bytes:
            return b""

        cluster = make_cluster(ServicerRuntime(ps=add), ps=1)
        channel = cluster.ps[0].channel()
        self.call = channel.unary_unary("/tests.Stuck/Wait").future(b"")
        assert begun.wait(20)
        return cluster

    def test_a_method_that_waits_is_ended(self, make_cluster: MakeCluster) -> None:
        async def wait(request: bytes, context: Any) -> bytes:
            begun.set()
            await asyncio.Event().wait()
            return b""

        self._stuck(make_cluster, wait).stop()
        assert self.call.exception(timeout=20) is not None

    def test_one_that_will_not_end_is_named(self, make_cluster: MakeCluster) -> None:
        async def wait(request: bytes, context: Any) -> bytes:
            begun.set()
            while not released.is_set():
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    continue
            return b""

        cluster = self._stuck(make_cluster, wait)
        with pytest.raises(StopError) as caught:
            cluster.stop()
        released.set()
        assert caught.value.survivors == ("/tests.Stuck/Wait",)
        assert "await asyncio.sleep(0.05)" in str(caught.value)

    def test_one_that_blocks_the_loop_is_named(self, make_cluster: MakeCluster) -> None:
        async def wait(request: bytes, context: Any) -> bytes:
            begun.set()
            released.wait(60)
            return b""

        cluster = self._stuck(make_cluster, wait)
        with pytest.raises(StopError) as caught:
            cluster.stop()
        released.set()
        assert caught.value.survivors == ("/tests.Stuck/Wait",)
        assert "released.wait(60)" in str(caught.value)


begun, released = threading.Event(), threading.Event()


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    begun.clear()
    released.clear()
    yield
    released.set()


@pytest.mark.parametrize("launcher", ["thread"], indirect=True)
def test_plain_services_have_no_loop(make_cluster: MakeCluster) -> None:
    make_cluster(ServicerRuntime(ps=services.add_echo), ps=1)
    assert not [thread for thread in threading.enumerate() if "asyncio" in thread.name]


@pytest.mark.parametrize("launcher", ["process", "thread"], indirect=True)
def test_nothing_is_said(pytester: pytest.Pytester, launcher: str) -> None:
    """No coroutine is never awaited, no task destroyed, no event missed: with several loops."""
    pytester.makepyfile(
        f"""
        import asyncio, gc, grpc, pytest
        from pytest_localcluster import ServicerRuntime

        async def say(request, context):
            await asyncio.sleep(0.001)
            return request

        async def forever(request, context):
            while True:
                await asyncio.sleep(60)
                yield b""

        async def add(server):
            add.ticking = asyncio.create_task(tick())
            handlers = {{
                "Say": grpc.unary_unary_rpc_method_handler(say),
                "Forever": grpc.unary_stream_rpc_method_handler(forever),
            }}
            server.add_registered_method_handlers("own.Echo", handlers)

        async def tick():
            while True:
                await asyncio.sleep(0.01)

        async def talk(servers):
            async with contextlib.AsyncExitStack() as stack:
                channels = [grpc.aio.insecure_channel(s.target) for s in servers]
                for channel in channels:
                    await stack.enter_async_context(channel)
                says = [c.unary_unary("/own.Echo/Say") for c in channels]
                answers = await asyncio.gather(*[say(b"1", timeout=20) for say in says * 50])
                assert set(answers) == {{b"1"}}
                stuck = channels[0].unary_stream("/own.Echo/Forever")(b"")
                await asyncio.wait([asyncio.ensure_future(stuck.read())], timeout=0.2)
                stuck.cancel()

        import contextlib

        runtime = ServicerRuntime(ps=add)

        @pytest.mark.parametrize("n", range(2))
        @pytest.mark.cluster(workers=0, ps=3, launcher={launcher!r}, runtime=runtime)
        def test_it(local_cluster, n):
            asyncio.run(talk(local_cluster.ps))
            local_cluster.ps[0].restart()
            stuck = local_cluster.ps[1].channel().unary_stream("/own.Echo/Forever")(b"")
            call = local_cluster.ps[0].channel().unary_unary("/own.Echo/Say")
            assert call(b"2", timeout=20) == b"2"
            logs = [server.log.text() for server in local_cluster.ps]
            local_cluster.stop()
            gc.collect()
            assert logs == ["", "", ""]
        """
    )
    result = pytester.runpytest_subprocess(
        "-p", "no:asyncio", "-p", "no:xdist", "-Werror", "--log-level=DEBUG", "-rA", timeout=60
    )
    result.assert_outcomes(passed=2)
    text = result.stdout.str() + result.stderr.str()
    for noise in ("never awaited", "destroyed", "PollerCompletionQueue", "Traceback", "ERROR"):
        assert noise not in text, text
