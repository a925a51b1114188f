"""Channels and the registry of what uses an address."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from pytest_localcluster import _channel
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._ports import lease_port


class Member:
    def __init__(self) -> None:
        self.disconnected = 0
        self.reconnected = 0

    def disconnect(self) -> None:
        self.disconnected += 1

    def reconnect(self) -> None:
        self.reconnected += 1

    def leave_to_parent(self) -> None: ...


@pytest.mark.parametrize(
    ("address", "dialled"),
    [
        ("localhost:1234", "127.0.0.1:1234"),
        ("127.0.0.1:1234", "127.0.0.1:1234"),
        ("[::1]:1234", "[::1]:1234"),
        ("my-localhost:1234", "my-localhost:1234"),
    ],
)
def test_localhost_is_dialled_by_number(address: str, dialled: str) -> None:
    assert _channel.dialled(address) == dialled


def test_a_token_is_metadata_and_none_is_none() -> None:
    assert _channel.token_metadata("secret") == (("localcluster-token", "secret"),)
    assert _channel.token_metadata(None) == ()


def test_close_all_disconnects_what_uses_the_address_and_only_that() -> None:
    here, there, gone = Member(), Member(), Member()
    _channel.register("localhost:1", here)
    _channel.register("localhost:2", there)
    _channel.register("localhost:1", gone)
    _channel.unregister("localhost:1", gone)

    _channel.close_all("localhost:1")
    _channel.close_all("localhost:1")

    assert (here.disconnected, there.disconnected, gone.disconnected) == (1, 0, 0)
    _channel.unregister("localhost:2", there)
    assert _channel._by_address == {}


def test_renew_all_reconnects_and_keeps_the_registration() -> None:
    here, there = Member(), Member()
    _channel.register("localhost:1", here)
    _channel.register("localhost:2", there)

    _channel.renew_all("localhost:1")
    _channel.renew_all("localhost:1")
    _channel.renew_all("localhost:4")

    assert (here.reconnected, there.reconnected) == (2, 0)
    _channel.close_all("localhost:1")
    _channel.close_all("localhost:2")
    assert here.disconnected == 1


def test_the_registry_keeps_nothing_alive() -> None:
    member = Member()
    _channel.register("localhost:3", member)
    del member
    gc.collect()
    assert not list(_channel._by_address["localhost:3"])
    _channel.close_all("localhost:3")


class Task:
    """A gRPC server at an address, which echoes; it can be there several times, one by one."""

    def __init__(self, address: str, name: bytes) -> None:
        self._server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])

        def token(request: bytes, context: Any) -> bytes:
            given: str = dict(context.invocation_metadata())["localcluster-token"]
            return given.encode()

        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(lambda it, _: name + it),
            "Down": grpc.unary_stream_rpc_method_handler(lambda it, _: iter([name, it])),
            "Up": grpc.stream_unary_rpc_method_handler(lambda them, _: name + b"".join(them)),
            "Both": grpc.stream_stream_rpc_method_handler(lambda them, _: (name + x for x in them)),
            "Token": grpc.unary_unary_rpc_method_handler(token),
        }
        self._server.add_registered_method_handlers("a.Task", handlers)
        self._server.add_insecure_port(_channel.dialled(address))
        self._server.start()

    def __enter__(self) -> None:
        """Serve until the end of the block."""

    def __exit__(self, *error: object) -> None:
        self._server.stop(None).wait()


def test_a_channel_to_a_task_outlives_its_restarts() -> None:
    with lease_port() as lease, _channel.TaskChannel(lease.address, "secret") as channel:
        unary, down = channel.unary_unary("/a.Task/Unary"), channel.unary_stream("/a.Task/Down")
        up, both = channel.stream_unary("/a.Task/Up"), channel.stream_stream("/a.Task/Both")
        for name in (b"1", b"2", b"3"):
            with Task(lease.address, name):
                assert unary(b"a", timeout=20) == name + b"a"
                assert unary.future(b"b", timeout=20).result() == name + b"b"
                assert unary.with_call(b"c", timeout=20)[0] == name + b"c"
                assert list(down(b"d", timeout=20)) == [name, b"d"]
                assert up(iter([b"e", b"f"]), timeout=20) == name + b"ef"
                assert list(both(iter([b"g", b"h"]), timeout=20)) == [name + b"g", name + b"h"]
                assert channel.unary_unary("/a.Task/Token")(b"", timeout=20) == b"secret"
            with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                unary(b"a", timeout=20)
            _channel.renew_all(lease.address)
    with pytest.raises(ValueError, match="this is a closed channel: the task at localhost:"):
        unary(b"a")


def test_a_channel_tells_of_its_connection_through_restarts() -> None:
    states: list[grpc.ChannelConnectivity] = []
    with lease_port() as lease, _channel.TaskChannel(lease.address, "secret") as channel:
        with Task(lease.address, b"1"):
            grpc.channel_ready_future(channel).result(timeout=20)
        channel.subscribe(states.append, try_to_connect=True)
        _channel.renew_all(lease.address)
        with Task(lease.address, b"2"):
            assert poll(lambda: grpc.ChannelConnectivity.READY in states, Deadline(20))
        channel.unsubscribe(states.append)
        assert channel._subscribed == []
    assert _channel._by_address == {}
