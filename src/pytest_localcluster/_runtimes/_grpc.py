"""A gRPC server of a task: its options, its address, its TLS, the token that it asks for."""

from __future__ import annotations

import functools
import hmac
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2

from .._channel import TOKEN_KEY
from .._clock import real_time
from .._core.listeners import others_at
from ..errors import PortError, UnsupportedError

if TYPE_CHECKING:
    from .._spec import Task
    from .._tls import Credentials
    from ._threads import Threads

__all__ = [
    "HEALTH",
    "TokenInterceptor",
    "bind_server",
    "check_threads",
    "discard_server",
    "has_ipv6_loopback",
    "make_server",
    "server_options",
    "start_server",
    "time_remaining",
]

_SHARED_PORT = "grpc.so_reuseport"
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Otherwise two servers could share one port, and each get some of the other's calls.
    (_SHARED_PORT, 0),
    # Our own channels ping, to see whether anybody is there; a server takes that for an attack.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
)

HEALTH: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
"""The name of the standard health service."""


def make_server(
    threads: Threads,
    interceptors: Sequence[grpc.ServerInterceptor],
    *,
    options: Sequence[tuple[str, Any]] = (),
    compression: Any = None,
    maximum_concurrent_rpcs: int | None = None,
) -> grpc.Server:
    """Return a server that runs its handlers in ``threads`` and listens nowhere yet.

    Raises:
        UnsupportedError: gevent or eventlet has replaced the threads that it needs.
    """
    check_threads()
    return grpc.server(
        threads,
        interceptors=interceptors,
        options=server_options(options),
        compression=compression,
        maximum_concurrent_rpcs=maximum_concurrent_rpcs,
    )


def server_options(given: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the channel arguments of a server: ours, but for those that are ``given``.

    Nobody shares the port of a task, whatever is given: of a name that comes twice gRPC would
    take either.
    """
    return [*{**dict(_OPTIONS), **dict(given), _SHARED_PORT: 0}.items()]


def time_remaining(context: Any) -> float | None:
    """Return the seconds that a caller will still wait, by the machine's clock; None if unknown.

    gRPC's own method of that name compares the deadline with what time.time() returns, which a
    function in this task may have replaced.
    """
    details = getattr(getattr(context, "_rpc_event", None), "call_details", None)
    deadline = getattr(details, "deadline", None)
    if deadline is None:
        left: float | None = context.time_remaining()
        return left
    return max(0.0, float(deadline) - real_time())


def check_threads() -> None:
    """Raise UnsupportedError where a thread would be a coroutine that a server's waits block."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        patches = "gevent.monkey"
    elif eventlet is not None and eventlet.is_monkey_patched("thread"):
        patches = "eventlet"
    else:
        return
    raise UnsupportedError(
        f"{patches} has replaced the threads of process {os.getpid()}: no gRPC server runs there",
        remedy="use launcher='process', and apply the patches in no module of preload=",
    )


def start_server(
    server: grpc.Server, task: Task, address: str, credentials: Credentials | None = None
) -> None:
    """Have ``server`` listen at ``address``, with TLS if it has credentials, and start it.

    Raises:
        PortError: the address is taken.
    """
    bind_server(server, task, address, credentials)
    server.start()


def bind_server(
    server: grpc.Server | grpc.aio.Server,
    task: Task,
    address: str,
    credentials: Credentials | None = None,
) -> None:
    """Give ``server`` its address, with TLS if it has credentials; PortError if that is taken."""
    try:
        for binding in _bindings(address):
            if credentials is None:
                server.add_insecure_port(binding)
            else:
                pair = credentials.key, credentials.certificate
                server.add_secure_port(binding, grpc.ssl_server_credentials([pair]))
    except RuntimeError as error:
        raise PortError(
            f"{task} cannot serve: its port is taken{others_at(address)}",
            task=str(task),
            address=address,
            evidence=str(error),
            remedy="start the cluster again; a --cluster-port-range should hold free ports",
        ) from None


def discard_server(server: grpc.Server, threads: Threads) -> None:
    """Give back what a server holds that did not come to be started."""
    server.start()  # a server that never started would keep what it has bound
    server.stop(None)
    threads.shutdown()


class TokenInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Refuses every call but health checks that does not carry the cluster's token.

    Args:
        token: the cluster's.
        address: the task's own, for the messages.
        remedy: what a caller can do who is refused.
    """

    def __init__(self, token: str, address: str, remedy: str) -> None:
        self._token = token.encode()
        wrong = (
            f"the task at {address} belongs to a cluster with another token than this call's\n"
            f"  To fix this: {remedy}"
        )
        foreign = (
            f"the task at {address} is no TensorFlow server\n"
            "  To fix this: ask for a cluster with runtime='tensorflow'"
        )
        missing = (
            f"the task at {address} was called without its cluster's token\n  To fix this: {remedy}"
        )
        self._wrong = grpc.StatusCode.UNAUTHENTICATED, wrong
        self._foreign = grpc.StatusCode.UNIMPLEMENTED, foreign
        self._missing = grpc.StatusCode.UNAUTHENTICATED, missing

    def intercept_service(self, continuation: Callable[[Any], Any], call: Any) -> Any:
        refusal = self.refusal(call)
        return continuation(call) if refusal is None else _refusing(*refusal)

    def refusal(self, call: Any) -> tuple[grpc.StatusCode, str] | None:
        """Return the status and the details that this call ends with; None if it may pass."""
        for key, value in call.invocation_metadata:
            if key == TOKEN_KEY:
                given = value.encode() if isinstance(value, str) else value
                return None if hmac.compare_digest(given, self._token) else self._wrong
        if call.method.startswith("/tensorflow."):
            return self._foreign
        return None if call.method.startswith(f"/{HEALTH}/") else self._missing


def _refusing(code: grpc.StatusCode, message: str) -> Any:
    def refuse(_requests: Any, context: grpc.ServicerContext) -> None:
        context.abort(code, message)

    # Streaming, so that nothing of the request is read; it suits calls of every kind.
    return grpc.stream_stream_rpc_method_handler(refuse)


def _bindings(address: str) -> list[str]:
    """Return what to bind: both loopback addresses for ``localhost``, one by one.

    gRPC binds the one and is content where the other is taken.
    """
    host, _, port = address.rpartition(":")
    if host not in ("localhost", "127.0.0.1"):
        return [address]
    return [f"127.0.0.1:{port}"] + ([f"[::1]:{port}"] if has_ipv6_loopback() else [])


@functools.cache
def has_ipv6_loopback() -> bool:
    """Tell whether this machine has ``::1``."""
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
