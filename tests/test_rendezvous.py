"""Where processes of one run meet: who wins, who is answered, and what is left of it."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pytest_localcluster import _rendezvous
from pytest_localcluster._clock import Deadline

pytestmark = pytest.mark.skipif(not _rendezvous.AVAILABLE, reason="no abstract sockets here")

# Answers everybody with its pid until its standard input ends.
SERVER = """
import os, select, socket, sys
from pytest_localcluster import _rendezvous
listener = socket.socket(fileno=int(sys.argv[1]))
while listener in select.select([listener, sys.stdin], [], [])[0]:
    with _rendezvous.accept(listener) as sock:
        _rendezvous.send(sock, str(os.getpid()).encode())
"""


class Servers:
    """Starts servers, and ends them all."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, listener: socket.socket) -> None:
        self.started.append(
            subprocess.Popen(
                [sys.executable, "-c", SERVER, str(listener.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )
        )

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()


@pytest.fixture
def servers() -> Iterator[Servers]:
    found = Servers()
    yield found
    found.end()


@pytest.fixture
def address() -> bytes:
    return _rendezvous.name("test", secrets.token_hex(8))


def met(address: bytes, servers: Servers) -> int:
    """Return the pid of who serves there."""
    with _rendezvous.meet(address, servers.start, Deadline(60)) as sock:
        return int(_rendezvous.receive(sock, Deadline(60))[0])


def test_a_name_is_of_one_user_and_fits_whatever_its_parts() -> None:
    long = _rendezvous.name("run", "x" * 200)
    assert str(os.getuid()).encode() in _rendezvous.name("run", 1).split(b"/")
    assert len(long) <= 107
    assert long != _rendezvous.name("run", "x" * 201)


def test_one_of_many_that_come_at_once_starts_who_serves_all(
    address: bytes, servers: Servers
) -> None:
    pids: list[int] = []
    threads = [
        threading.Thread(target=lambda: pids.append(met(address, servers))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (server,) = servers.started
    assert pids == [server.pid] * 8


def test_when_who_serves_was_killed_the_next_one_starts_another(
    address: bytes, servers: Servers
) -> None:
    first = met(address, servers)
    servers.end()
    assert met(address, servers) != first
    assert len(servers.started) == 2


def test_a_winner_that_dies_before_it_has_started_anybody_is_replaced(
    address: bytes, servers: Servers
) -> None:
    kind, listener = _rendezvous.join(address)
    assert kind == "listener"
    waited: list[object] = []

    def die_when_somebody_waits() -> None:
        waited.extend(select.select([listener], [], [], 60)[0])
        listener.close()

    death = threading.Thread(target=die_when_somebody_waits)
    death.start()
    assert met(address, servers) == servers.started[0].pid
    death.join(60)
    assert waited == [listener]


def test_an_error_of_the_start_is_told_and_leaves_the_place_free(
    address: bytes, servers: Servers
) -> None:
    def fail(listener: socket.socket) -> None:
        raise OSError("no more processes")

    with pytest.raises(OSError, match="no more processes"):
        _rendezvous.meet(address, fail, Deadline(60))
    assert met(address, servers)


def test_nobody_answers_in_time(address: bytes, servers: Servers) -> None:
    _, listener = _rendezvous.join(address)
    with listener, pytest.raises(TimeoutError, match=r"nobody has answered.*'pytest-localcluster/"):
        _rendezvous.meet(address, servers.start, Deadline(0.05))
    assert not servers.started


def test_a_place_that_is_full_is_tried_again_until_the_deadline(
    address: bytes, servers: Servers
) -> None:
    _, listener = _rendezvous.join(address)
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener)
        full = False
        while not full:
            try:
                stack.enter_context(_rendezvous.join(address)[1])
            except BlockingIOError:
                full = True
        with pytest.raises(TimeoutError):
            _rendezvous.meet(address, servers.start, Deadline(0.05))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="takes root")
def test_no_word_is_changed_with_another_user(address: bytes, servers: Servers) -> None:
    _, listener = _rendezvous.join(address)
    code = (
        "import os, sys\n"
        "from pytest_localcluster import _rendezvous\n"
        "os.setuid(54321)\n"
        "_rendezvous.join(bytes.fromhex(sys.argv[1]))\n"
    )
    with listener:
        stranger = subprocess.run(
            [sys.executable, "-c", code, address.hex()], capture_output=True, text=True, check=False
        )
        listener.settimeout(20)
        assert _rendezvous.accept(listener) is None
    assert "PermissionError" in stranger.stderr
    assert "is of user 0, not of ours" in stranger.stderr


def test_descriptors_go_with_a_message() -> None:
    here, there = socket.socketpair()
    read, write = os.pipe()
    with here, there:
        _rendezvous.send(here, b"x" * 3_000, [write])
        data, (fd,) = _rendezvous.receive(there, Deadline(60))
        assert data == b"x" * 3_000
        os.write(fd, b"through")
        assert os.read(read, 10) == b"through"
        assert not os.get_inheritable(fd)
        for number in (read, write, fd):
            os.close(number)
        with pytest.raises(TimeoutError):
            _rendezvous.receive(there, Deadline(0.01))
        here.close()
        with pytest.raises(EOFError):
            _rendezvous.receive(there, Deadline(60))
