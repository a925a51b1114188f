"""Channels and the registry of what uses an address."""

from __future__ import annotations

import gc

import pytest

from pytest_localcluster import _channel


class Member:
    def __init__(self) -> None:
        self.disconnected = 0
        self.reconnected = 0

    def disconnect(self) -> None:
        self.disconnected += 1

    def reconnect(self) -> None:
        self.reconnected += 1


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
