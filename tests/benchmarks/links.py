"""What links between tasks cost: bytes that pass one, and a cluster that has them."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from pytest_localcluster import LocalCluster, lease_port

from ._measure import Row, Stopwatch, per_call

LARGE = 256 << 20

# Answers each message of 64 bytes with the same, and each LARGE bytes that begin with a 1 with one.
PEER = """
import socket, sys
large, listener = int(sys.argv[1]), socket.create_server(("127.0.0.1", int(sys.argv[2])))
print(flush=True)
buffer = bytearray(1 << 20)
while True:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        many = connection.recv(1) == b"1"
        left = large
        while count := connection.recv_into(buffer):
            if not many:
                connection.sendall(buffer[:count])
            elif (left := left - count) == 0:
                connection.sendall(b"!")
                left = large
"""

# The process that runs the link, as a cluster has one.
RELAY = """
import os, sys
from pytest_localcluster._links import serve
serve([(int(sys.argv[1]), int(sys.argv[2]))])
print(flush=True)
sys.stdin.read()
os._exit(0)
"""


def spawn(stack: ExitStack, code: str, *args: object) -> None:
    """Run a program until ``stack`` is closed; return when it has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdin is not None
    stack.enter_context(process.stdout)
    stack.enter_context(process.stdin)
    process.stdout.readline()


def dial(port: int, kind: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(kind)
    return connection


def passing(repeat: int) -> Iterator[Row]:
    """One relay: small messages there and back, and many bytes one way."""
    with ExitStack() as stack:
        near, far = stack.enter_context(lease_port()), stack.enter_context(lease_port())
        spawn(stack, PEER, LARGE, far.port)
        spawn(stack, RELAY, near.port, far.port)
        small, block = bytes(64), bytes(1 << 20)
        trips, rates = [], []
        for port in (far.port, near.port):
            with dial(port, b"0") as connection:

                def there_and_back(connection: socket.socket = connection) -> None:
                    connection.sendall(small)
                    connection.recv(64)

                trips.append(per_call(there_and_back, repeat * 100))
            with dial(port, b"1") as connection:

                def one_way(connection: socket.socket = connection) -> None:
                    for _ in range(LARGE >> 20):
                        connection.sendall(block)
                    connection.recv(1)

                rates.append(LARGE / 2**30 / (per_call(one_way, repeat) / 1000))
    added = (trips[1] - trips[0]) / 2 * 1000
    yield Row("64 bytes over loopback, there and back", trips[0] * 1000, "us", laps=repeat * 100)
    yield Row("added by a link, each way", added, "us", budget=100, laps=repeat * 100)
    yield Row("over loopback", rates[0], "GiB/s", laps=repeat)
    half = rates[0] / 2
    yield Row("over a link", rates[1], "GiB/s", budget=half, at_least=True, laps=repeat)


def lives(launcher: str, repeat: int) -> Iterator[Row]:
    """Start and stop 2 workers and 2 ps with links between them, 12 of them."""
    start, stop = Stopwatch(), Stopwatch()
    for _ in range(repeat + 1):
        cluster = LocalCluster(workers=2, ps=2, launcher=launcher, links=True)
        with start.lap():
            cluster.start()
        with stop.lap():
            cluster.stop()
    del start.seconds[0]
    yield start.row(f"start 2+2 with links, {launcher}")
    yield stop.row(f"stop 2+2 with links, {launcher}")


def verbs(repeat: int) -> Iterator[Row]:
    """Cut all links of 2+2, and heal them."""
    with LocalCluster(workers=2, ps=2, links=True) as cluster:

        def cut_and_heal() -> None:
            with cluster.partition("worker", "ps"):
                pass

        what = "a partition of 2+2, healed at once"
        yield Row(what, per_call(cut_and_heal, repeat), laps=repeat)
