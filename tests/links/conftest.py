"""A relay in a thread, a listener where it leads to, and plain sockets at both ends."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from pytest_localcluster import lease_port
from pytest_localcluster._links import Condition, Links

RESET = struct.pack("ii", 1, 0)


@dataclass
class Line:
    """A link, and a listener where it leads to."""

    links: Links
    port: int
    target: int
    listener: socket.socket
    undo: ExitStack = field(repr=False)

    def dial(self, host: str = "127.0.0.1") -> socket.socket:
        return self.undo.enter_context(socket.create_connection((host, self.port), 20))

    def accept(self) -> socket.socket:
        found = self.undo.enter_context(self.listener.accept()[0])
        found.settimeout(20)
        return found

    def pair(self) -> tuple[socket.socket, socket.socket]:
        near = self.dial()
        return near, self.accept()

    def become(self, condition: Condition) -> None:
        self.links.set_conditions({0: condition})


@pytest.fixture
def line() -> Iterator[Line]:
    with ExitStack() as undo:
        near, far = undo.enter_context(lease_port()), undo.enter_context(lease_port())
        links = Links([(near.port, far.port)])
        undo.callback(links.stop)
        listener = undo.enter_context(serve_at(far.port))
        yield Line(links, near.port, far.port, listener, undo)


def serve_at(port: int, host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=4096)
    listener.settimeout(20)
    return listener


def read(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (more := sock.recv(min(1 << 20, size - len(data)))):
        data += more
    return bytes(data)


def silent(*socks: socket.socket) -> bool:
    """Tell whether nothing comes for a moment; it takes a relay a thousandth of that."""
    return not select.select(socks, (), (), 0.1)[0]


def is_reset(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b"no"
    except ConnectionResetError:
        return True


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread
