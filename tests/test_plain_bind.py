"""A function in a task binds a leased port without SO_REUSEADDR, as a socketserver does."""

from __future__ import annotations

import errno
import os
import socket
import socketserver
from collections.abc import Callable, Iterator

import pytest

from pytest_localcluster import LocalCluster, PortLease, current_task
from pytest_localcluster._ports import system_holds_ports

HOSTS = ["127.0.0.1", "0.0.0.0", "localhost", *(["::1", "::"] if socket.has_ipv6 else [])]

pytestmark = pytest.mark.skipif(
    not system_holds_ports(), reason="this system's leases let go of their ports"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=1, ps=0, ports=("admin",)) as cluster:
        yield cluster


def serve_plainly(host: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        server.bind((host, port))
        server.listen()
        number: int = server.getsockname()[1]
        return number


@pytest.mark.parametrize("host", HOSTS)
def test_a_lease_of_the_test(
    cluster: LocalCluster, lease_port: Callable[[], PortLease], host: str
) -> None:
    lease = lease_port()
    for _ in range(2):
        assert cluster.workers[0].run(serve_plainly, host, lease.port) == lease.port
    with pytest.raises(OSError, match="in use"):
        serve_plainly("127.0.0.1", lease.port)
    assert lease.held


def test_a_port_by_name_and_the_port_to_meet_at(cluster: LocalCluster) -> None:
    def ports() -> tuple[int, int]:
        further = current_task().ports["admin"]
        return serve_plainly("127.0.0.1", further), serve_plainly(
            "127.0.0.1", int(os.environ["MASTER_PORT"])
        )

    worker = cluster.workers[0]
    meeting = int(cluster.environ(worker)["MASTER_PORT"])
    assert worker.run(ports) == (worker.ports["admin"], meeting)


def test_a_socketserver_has_it_alone(cluster: LocalCluster) -> None:
    def serve() -> str:
        where = "", current_task().ports["admin"]
        with socketserver.TCPServer(where, socketserver.BaseRequestHandler):
            try:
                serve_plainly(*where)
            except OSError as error:
                return errno.errorcode[error.errno or 0]
        return "two servers at one port"

    assert cluster.workers[0].run(serve) == "EADDRINUSE"


def test_a_port_of_a_stranger_stays_refused(cluster: LocalCluster) -> None:
    def refused(port: int) -> tuple[str, int]:
        with socket.socket() as server:
            try:
                server.bind(("127.0.0.1", port))
            except OSError as error:
                name = errno.errorcode[error.errno or 0]
                return name, server.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        return "", 0

    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        port = stranger.getsockname()[1]
        assert cluster.workers[0].run(refused, port) == ("EADDRINUSE", 0)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.listen()
        assert cluster.workers[0].run(refused, port) == ("EADDRINUSE", 0)
    with pytest.raises(OSError, match="assign"):
        cluster.workers[0].run(serve_plainly, "192.0.2.77", 0)
