"""gRPC channels as every part of this package opens them, and what uses which address."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any, Protocol, Self
from weakref import WeakSet

import grpc

from . import _context
from ._clock import grpc_timeout
from ._core.forks import inherited, refusal

__all__ = [
    "CHANNEL_OPTIONS",
    "KEEPALIVE",
    "TOKEN_KEY",
    "Member",
    "TaskChannel",
    "close_all",
    "dialled",
    "leave",
    "open_channel",
    "register",
    "renew_all",
    "token_metadata",
    "unregister",
]

TOKEN_KEY = "localcluster-token"
"""The metadata key under which every call but a health check carries the cluster's token."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A proxy of the environment would be asked for loopback addresses too.
    ("grpc.enable_http_proxy", 0),
    # In the global pool a new channel inherits the back-off of the last one to the same address,
    # and a restarted task would be taken for dead for seconds.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
    # Not grpc.min_reconnect_backoff_ms: in truth it is how long a connection may take to come up,
    # and a task on a busy machine, or a suspended one, would be taken for dead after 100 ms.
)


KEEPALIVE: tuple[tuple[str, int], ...] = (
    # A server that is suspended, or behind a link that lets nothing through, does not answer pings;
    # one that is busy, or holds the interpreter's lock, does: gRPC's own threads answer them. So a
    # call without a deadline ends, after half a minute, exactly if it would wait in vain.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)
"""How a channel to a server of ours sees that nobody is there. Others may not like to be pinged."""


class Member(Protocol):
    """Something that talks to an address until told that it is gone; kept by weak reference."""

    def reconnect(self) -> None:
        """Talk over a new connection from now on: the old one leads to a task that is no more."""

    def disconnect(self) -> None:
        """Stop talking, at once and without a word to the other side."""

    def leave_to_parent(self) -> None:
        """In a fork: make a new connection when one is needed, and never touch the old one.

        Called before anything else runs there, when other threads may have held any lock.
        """


def dialled(address: str) -> str:
    """Return the address to dial for ``address``.

    Servers bind 127.0.0.1 whatever else they bind, so ``localhost`` need not be resolved, and can
    never lead to a stranger who has the port in the other address family.
    """
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host == "localhost" else address


def open_channel(
    address: str, token: str | None = None, *, keepalive: bool = False, plain: bool = False
) -> grpc.Channel:
    """Return a channel to ``address`` (``host:port``); it connects with its first call.

    Each of its calls carries the token, if one is given. With ``keepalive``, which is for servers
    of ours, calls end when the server does not answer pings. It speaks TLS if the task there is
    known to do so; ``plain`` is for servers that never do.
    """
    options = (*CHANNEL_OPTIONS, *KEEPALIVE) if keepalive else CHANNEL_OPTIONS
    root = None if plain else _context.root_for(address)
    if root is None:
        channel = grpc.insecure_channel(dialled(address), options=options)
    else:
        credentials = grpc.ssl_channel_credentials(root.encode())
        channel = grpc.secure_channel(dialled(address), credentials, options=options)
    return channel if token is None else grpc.intercept_channel(channel, _TokenCarrier(token))


class _TokenCarrier(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]  # grpc has no types
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """Adds the token to the metadata of every call."""

    def __init__(self, token: str) -> None:
        self._metadata = token_metadata(token)

    def _carry(self, continuation: Any, details: Any, request: Any) -> Any:
        carrying = _Details(
            details.method,
            details.timeout,
            (*(details.metadata or ()), *self._metadata),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
        return continuation(carrying, request)

    intercept_unary_unary = intercept_unary_stream = _carry
    intercept_stream_unary = intercept_stream_stream = _carry


@dataclass(frozen=True)
class _Details(grpc.ClientCallDetails):  # type: ignore[misc]
    """What a call is made with: a plain copy, since gRPC offers none that could be made."""

    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str], ...]
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


def token_metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata that a call with ``token`` carries; none if there is no token."""
    return () if token is None else ((TOKEN_KEY, token),)


_lock = threading.Lock()
_by_address: dict[str, WeakSet[Member]] = {}


def register(address: str, member: Member) -> None:
    """Have :func:`close_all` disconnect ``member`` once the task at ``address`` is gone."""
    with _lock:
        _by_address.setdefault(address, WeakSet()).add(member)


def unregister(address: str, member: Member) -> None:
    """Take back what :func:`register` did; nothing happens if it did nothing."""
    with _lock:
        members = _by_address.get(address)
        if members is not None:
            members.discard(member)
            if not members:
                del _by_address[address]


def renew_all(address: str) -> None:
    """Have everything that was registered for ``address`` make new connections.

    To be called when the task there was restarted: a connection to the old one may look alive
    until it is used, and then nobody can tell whether what it was used for was done.
    """
    with _lock:
        members = list(_by_address.get(address, ()))
    for member in members:
        member.reconnect()


def close_all(address: str) -> None:
    """Disconnect everything that was registered for ``address`` (``host:port``)."""
    with _lock:
        members = list(_by_address.pop(address, ()))
    for member in members:
        member.disconnect()


_of_parents: list[object] = []  # connections that are used, and may be closed, by others only


def _leave_to_parent() -> None:
    global _lock
    _lock = threading.Lock()
    for members in list(_by_address.values()):
        for member in members:
            member.leave_to_parent()


def leave(connection: object) -> None:
    """In a fork, keep a connection from being closed: that would end it for the parent too."""
    _of_parents.append(connection)


os.register_at_fork(after_in_child=_leave_to_parent)


class TaskChannel(grpc.Channel):  # type: ignore[misc]
    """A channel to one task, through its restarts: each call goes to the task that is there now.

    A connection to the task that was there before may look alive until it is used, and one that was
    refused is not tried again at once; so after a restart there is a new one.
    """

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._token = token
        self._subscribed: list[tuple[Any, bool]] = []
        self._lock = threading.Lock()
        self._past: list[grpc.Channel] = []  # calls that are under way there are to fail by them
        self._now: grpc.Channel | None = open_channel(address, token)
        self._owner = os.getpid()
        register(address, self)

    def reconnect(self) -> None:
        """Be a channel to the task that has begun anew."""
        with self._lock:
            if self._now is not None:
                self._past.append(self._now)
                self._now = open_channel(self._address, self._token)
                for callback, try_to_connect in self._subscribed:
                    self._now.subscribe(callback, try_to_connect)

    def leave_to_parent(self) -> None:
        """In a fork: refuse calls from now on; of gRPC's own, some raise, and some hang."""
        self._lock = threading.Lock()
        leave([self._past, self._now])
        self._past, self._now = [], None

    def close(self) -> None:
        """Close it; calls that are under way fail. Idempotent."""
        unregister(self._address, self)
        with self._lock:
            for channel in (*self._past, self._now):
                if channel is not None:
                    channel.close()
            self._past, self._now = [], None

    disconnect = close

    def now(self) -> grpc.Channel:
        """Return the channel to the task that is there now."""
        if self._now is None:
            if inherited(self):
                raise refusal(self, "call")
            raise ValueError(f"this is a closed channel: the task at {self._address} is gone")
        return self._now

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None:
        """Have ``callback`` called with the state of the connection, now and when it changes."""
        with self._lock:
            self._subscribed.append((callback, try_to_connect))
            self.now().subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        """Take back what :meth:`subscribe` did."""
        with self._lock:
            self._subscribed = [each for each in self._subscribed if each[0] != callback]
            self.now().unsubscribe(callback)

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Return what calls a method; so do the three others."""
        return _Method(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self, "stream_stream", args, kwargs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<channel to {self._address}>"


class _Method:
    """What a TaskChannel gives for gRPC's multi-callables: one of the channel that is there now."""

    def __init__(self, channel: TaskChannel, kind: str, args: Any, kwargs: Any) -> None:
        self._channel = channel
        self._kind = kind
        self._args = args
        self._kwargs = kwargs
        self._made: tuple[grpc.Channel | None, Any] = (None, None)

    def _now(self) -> Any:
        now = self._channel.now()
        made_for, method = self._made
        if made_for is not now:
            method = getattr(now, self._kind)(*self._args, **self._kwargs)
            self._made = now, method
        return method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._now()(*_args(args), **_kwargs(kwargs))

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        return self._now().with_call(*_args(args), **_kwargs(kwargs))

    def future(self, *args: Any, **kwargs: Any) -> Any:
        return self._now().future(*_args(args), **_kwargs(kwargs))


def _args(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a call; its timeout, the second, by the machine's clock."""
    return args if len(args) < 2 else (args[0], _timeout(args[1]), *args[2:])


def _kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    return kwargs if "timeout" not in kwargs else kwargs | {"timeout": _timeout(kwargs["timeout"])}


def _timeout(given: Any) -> Any:
    return grpc_timeout(given) if isinstance(given, (int, float)) else given
