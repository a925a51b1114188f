"""A user's own server, as its author sets it up, wherever tasks run."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from pytest_localcluster import LocalCluster, ServicerRuntime, current_task


async def say(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(0)
    return f"{current_task().task} {request.decode()}".encode()


def plain(request: bytes, context: Any) -> bytes:
    return f"{current_task().task} {request.decode()}".encode()


def add(server: Any) -> None:
    handlers = {"Plain": grpc.unary_unary_rpc_method_handler(plain)}
    server.add_registered_method_handlers("tests.Own", handlers)


async def add_async(server: Any, task: Any) -> None:
    add(server)
    handlers = {"Say": grpc.unary_unary_rpc_method_handler(say)}
    server.add_registered_method_handlers("tests.Async", handlers)


class Users(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets nobody call who does not say a name."""

    def intercept_service(self, continuation: Any, call: Any) -> Any:
        if "user" in dict(call.invocation_metadata) or call.method.startswith("/grpc.health"):
            return continuation(call)
        return grpc.unary_unary_rpc_method_handler(refuse)


def refuse(request: bytes, context: Any) -> None:
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "who is it?")


class AsyncUsers(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    async def intercept_service(self, continuation: Any, call: Any) -> Any:
        if "user" in dict(call.invocation_metadata) or call.method.startswith("/grpc.health"):
            return await continuation(call)

        async def refuse(request: bytes, context: Any) -> None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "who is it?")

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_server_as_its_author_sets_it_up(launcher: str, asynchronous: bool) -> None:
    runtime = ServicerRuntime(
        dict.fromkeys(("worker", "ps"), add_async if asynchronous else add),
        interceptors=[AsyncUsers() if asynchronous else Users()],
        options=[("grpc.max_receive_message_length", 1000)],
        compression=grpc.Compression.Gzip,
        maximum_concurrent_rpcs=10,
    )
    start_timeout = 180 if launcher == "ray" else None
    cluster = LocalCluster(
        workers=1, ps=1, runtime=runtime, launcher=launcher, start_timeout=start_timeout
    )
    methods = ["/tests.Own/Plain", *(["/tests.Async/Say"] if asynchronous else [])]
    user = [("user", "me")]
    with cluster:
        for _ in range(2):
            for server in cluster.servers:
                channel = server.channel()
                for method in methods:
                    call = channel.unary_unary(method)
                    answer = call(b"hello", timeout=20, metadata=user)
                    assert answer == f"{server.task} hello".encode()
                    with pytest.raises(grpc.RpcError, match="who is it"):
                        call(b"hello", timeout=20)
                    with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
                        call(bytes(2000), timeout=20, metadata=user)
                assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20)
            cluster.reset()
