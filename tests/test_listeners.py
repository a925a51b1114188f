"""Who has a port, and what programs say when it is not theirs."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from pytest_localcluster._core.listeners import holder_of, in_use, ports_in_use

LINES = {
    "OSError: [Errno 98] Address already in use": [],
    "2026/11/30 22:33:01 [emerg] bind() to 127.0.0.1:8080 failed (98: Address already in use)": [
        8080
    ],
    "main.go:42: listen tcp :8080: bind: address already in use": [8080],
    "Error: listen EADDRINUSE: address already in use :::3000": [3000],
    "java.net.BindException: Address already in use (Bind failed)": [],
    "failed to listen on TCP port 11211: Address already in use": [11211],
    "22:11:12.123 * listening socket 127.0.0.1:6379: bind: Address already in use": [6379],
    'Os { code: 98, kind: AddrInUse, message: "Address already in use" }': [],
    "zmq.error.ZMQError: Address already in use (addr='tcp://127.0.0.1:5555')": [5555],
    "ERROR: Port 8080 is already in use": [8080],
    "[::1]:5000 Address already in use": [5000],
    "could not bind *:80: Address already in use": [80],
    "{error,eaddrinuse}": [],
    "2026-11-30T22:33:01.123+01:00 WARN address already in use": [],
}


@pytest.mark.parametrize("line", LINES)
def test_what_programs_say(line: str) -> None:
    text = f"loading localhost:1234\n{line}\nbye\n"
    assert in_use(text) == [line]
    assert ports_in_use(in_use(text)) == LINES[line]


@pytest.mark.parametrize(
    "text", ["", "listening on localhost:1234", "disk in use: 5", "no address in use"]
)
def test_what_says_nothing_like_it(text: str) -> None:
    assert in_use(text) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads the tables of Linux")
class TestHolder:
    def test_a_listener(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            assert holder_of(port) == f"this process (pid {os.getpid()}) listens there"
            assert holder_of(port, but=[os.getpid()]) == ""
        assert holder_of(port) == ""

    def test_connections_that_linger(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection(server.getsockname()) as client:
                server.accept()[0].close()
                assert client.recv(1) == b""
        assert "linger there, for a minute at most" in holder_of(port)
