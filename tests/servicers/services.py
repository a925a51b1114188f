"""Services without generated code, as a user's own module would have them, and their client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pytest_localcluster import Server, current_task

ECHO = "tests.Echo"

heard: list[str] = []  # in the task, for functions that run there
released = threading.Event()  # lets methods end that otherwise would not


def me() -> str:
    return str(current_task().task)


def say(request: bytes, context: Any) -> bytes:
    heard.append(request.decode())
    return f"{me()} {request.decode()}".encode()


def spell(request: bytes, context: Any) -> Iterator[bytes]:
    for letter in request.decode():
        yield f"{me()} {letter}".encode()


def join(requests: Iterable[bytes], context: Any) -> bytes:
    return b" ".join([me().encode(), *requests])


def chat(requests: Iterable[bytes], context: Any) -> Iterator[bytes]:
    for request in requests:
        yield f"{me()} {request.decode()}".encode()


def add_echo(server: grpc.Server) -> None:
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Spell": grpc.unary_stream_rpc_method_handler(spell),
        "Join": grpc.stream_unary_rpc_method_handler(join),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(ECHO, handlers)])


def adder(method: str, function: Callable[..., Any], service: str = "tests.Own") -> Any:
    """Return a closure that registers a service with one unary method."""

    def add(server: grpc.Server) -> None:
        handlers = {method: grpc.unary_unary_rpc_method_handler(function)}
        server.add_registered_method_handlers(service, handlers)

    return add


def call(
    channel: grpc.Channel,
    method: str,
    request: bytes = b"",
    *,
    service: str = "tests.Own",
    **options: Any,
) -> str:
    """Call a unary method."""
    answer: bytes = channel.unary_unary(f"/{service}/{method}")(
        request, **{"timeout": 20, **options}
    )
    return answer.decode()


def check(server: Server, service: str = "") -> str:
    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(server.target))
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
