"""Links with many connections, and with more than there are descriptors for."""

from __future__ import annotations

import errno
import resource
import socket
import struct

from pytest_localcluster._clock import Deadline, poll

from .conftest import Line, is_reset, read


def test_thousands_of_connections(line: Line) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(2000, (hard - 500) // 4)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    line.undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    pairs = []
    for number in range(count):
        near = line.dial()
        near.sendall(struct.pack("!I", number))
        pairs.append((near, line.accept()))
    for number, (_, far) in enumerate(pairs):
        assert read(far, 4) == struct.pack("!I", number)
        far.sendall(struct.pack("!I", ~number & 0xFFFFFFFF))
    assert line.links.connections() == count
    for number, (near, far) in enumerate(pairs):
        assert read(near, 4) == struct.pack("!I", ~number & 0xFFFFFFFF)
        (near if number % 2 else far).close()
    for number, (near, far) in enumerate(pairs):
        (far if number % 2 else near).close()
    assert poll(lambda: line.links.connections() == 0, Deadline(60))


def test_without_descriptors_a_connection_is_reset_and_the_others_live(line: Line) -> None:
    near, far = line.pair()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unwelcome = line.undo.enter_context(socket.socket())
    unwelcome.settimeout(20)
    lowest = socket.socket()
    free = lowest.fileno()
    lowest.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        early = unwelcome.connect_ex(("127.0.0.1", line.port)) == errno.ECONNRESET
        assert early or is_reset(unwelcome)
        near.sendall(b"x")
        assert far.recv(1) == b"x"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    later_near, later_far = line.pair()
    later_near.sendall(b"y")
    assert later_far.recv(1) == b"y"
