"""PortLease: nobody else gets a leased port, and the one server that should does."""

from __future__ import annotations

import os
import resource
import socket
import socketserver
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures

import grpc
import portpicker
import pytest

from pytest_localcluster import PortError, PortLease, _ports, lease_port
from pytest_localcluster._core.listeners import holder_of
from pytest_localcluster._ports import Binding

IP_LOCAL_PORT_RANGE = 51  # of Linux since 6.3


@pytest.fixture(autouse=True)
def own_candidates(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin at the start of a range also in a worker, and leave none behind."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    yield
    _ports.configure(None)


@pytest.fixture
def lease() -> Iterator[PortLease]:
    with lease_port() as lease:
        yield lease


def _bind(host: str, port: int, *, reuse: bool) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen()


HOSTS = ["127.0.0.1", "0.0.0.0", *(["::1", "::"] if socket.has_ipv6 else [])]


@pytest.mark.parametrize("host", HOSTS)
def test_a_stranger_is_refused(lease: PortLease, host: str) -> None:
    with pytest.raises(OSError, match="in use"):
        _bind(host, lease.port, reuse=False)


@pytest.mark.parametrize("host", HOSTS)
def test_a_server_binds_stops_and_binds_again(lease: PortLease, host: str) -> None:
    for _ in range(3):
        _bind(host, lease.port, reuse=True)


def test_a_second_lease_of_the_port_is_refused(lease: PortLease) -> None:
    assert _ports._hold(lease.port) is None


def test_grpc_serves_on_it_and_a_second_server_is_refused(lease: PortLease) -> None:
    def serve() -> grpc.Server:
        pool = futures.ThreadPoolExecutor(1)
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        server.add_insecure_port(f"127.0.0.1:{lease.port}")
        server.start()
        return server

    server = serve()
    with pytest.raises(RuntimeError, match="Failed to bind"):
        serve()
    server.stop(0).wait()
    serve().stop(0).wait()


def test_release_gives_the_port_back_and_is_idempotent() -> None:
    lease = lease_port()
    assert lease.held
    assert repr(lease) == f"<PortLease localhost:{lease.port}: held>"
    lease.release()
    lease.release()
    assert not lease.held
    assert "released" in repr(lease)
    _bind("127.0.0.1", lease.port, reuse=False)
    assert lease.port not in portpicker._random_ports


def test_all_or_none() -> None:
    _ports.configure(_free_range(2))
    with pytest.raises(PortError, match="none of the 2 ports of"):
        _ports.lease_ports(3)
    for lease in _ports.lease_ports(2):  # so the failure gave back the two that it had
        lease.release()


def test_six_processes_with_300_leases_each_never_share_a_port() -> None:
    code = (
        "import sys\n"
        "from pytest_localcluster._ports import lease_ports\n"
        "leases = lease_ports(300)\n"
        "print(*[lease.port for lease in leases], flush=True)\n"
        "sys.stdin.read()\n"  # holds them until all the others have theirs
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    try:
        lines = [child.stdout.readline() for child in children if child.stdout is not None]
        ports = [port for line in lines for port in line.split()]
        assert len(ports) == len(set(ports)) == 1800
    finally:
        for child in children:
            child.communicate()


def test_a_lease_dies_with_its_process() -> None:
    code = (
        "import os, signal; from pytest_localcluster import lease_port; lease = lease_port();"
        "print(lease.port, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -9
    _bind("127.0.0.1", int(done.stdout), reuse=False)


class TestRange:
    def test_leases_come_from_it_in_turn(self) -> None:
        low, high = _free_range(3)
        _ports.configure((low, high))
        leases = _ports.lease_ports(3)
        assert [lease.port for lease in leases] == [low, low + 1, high]
        leases[0].release()
        with lease_port() as again:
            assert again.port == low
        for lease in leases:
            lease.release()

    def test_a_port_given_back_is_not_taken_again_at_once(self) -> None:
        low, high = _free_range(3)
        _ports.configure((low, high))
        ports = []
        for _ in range(3):
            with lease_port() as lease:
                ports.append(lease.port)
        assert ports == [low, low + 1, high]

    def test_says_so_when_all_are_taken(self) -> None:
        low, high = _free_range(2)
        _ports.configure((low, high))
        leases = _ports.lease_ports(2)
        with pytest.raises(
            PortError, match=rf"none of the 2 ports of {low}-{high} is free\n.*--cluster-port-range"
        ):
            lease_port()
        for lease in leases:
            lease.release()

    @pytest.mark.parametrize("ports", [(0, 10), (10, 9), (60000, 65536), (-5, 5)])
    def test_refuses_what_is_no_range(self, ports: tuple[int, int]) -> None:
        with pytest.raises(PortError, match=r"is no range of ports\n.*LOW-HIGH, within 1-65535"):
            _ports.configure(ports)

    @pytest.mark.parametrize(
        ("worker", "count", "offset"),
        [("gw0", "4", 0), ("gw1", "4", 25), ("gw3", "4", 75), ("gw5", "4", 25), ("master", "", 0)],
    )
    def test_each_xdist_worker_starts_in_its_own_stripe(
        self, monkeypatch: pytest.MonkeyPatch, worker: str, count: str, offset: int
    ) -> None:
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", count)
        assert _ports._Range(20000, 20099).cursor == 20000 + offset


needs_held_ports = pytest.mark.skipif(
    not _ports.system_holds_ports(), reason="this system's leases let go of their ports"
)


@needs_held_ports
class TestPlainServers:
    """Servers that do not set SO_REUSEADDR: the lease moves aside for them, and no further."""

    @pytest.mark.parametrize("host", [host for host in HOSTS if host != "::"])
    def test_one_binds_while_the_lease_is_aside(self, lease: PortLease, host: str) -> None:
        lease.hand_over(Binding.PLAIN)
        assert not lease.held
        for _ in range(2):
            _bind(host, lease.port, reuse=False)
        assert "handed over" in repr(lease)

    @pytest.mark.parametrize("host", HOSTS)
    def test_every_one_binds_when_the_port_is_let_go(self, lease: PortLease, host: str) -> None:
        lease.hand_over(Binding.WILDCARD)
        assert lease.descriptors == []
        _bind(host, lease.port, reuse=False)

    def test_other_leases_are_refused_all_the_time(self, lease: PortLease) -> None:
        lease.hand_over(Binding.PLAIN)
        assert _ports._hold(lease.port) is None
        with socket.socket() as server:
            server.bind(("127.0.0.1", lease.port))
            server.listen()
            assert _ports._hold(lease.port) is None
        assert _ports._hold(lease.port) is None

    def test_outgoing_connections_are_not_given_the_port(self, lease: PortLease) -> None:
        only = struct.pack("I", lease.port << 16 | lease.port)
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            try:
                client.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, only)
            except OSError:
                pytest.skip("this kernel has no IP_LOCAL_PORT_RANGE")
            lease.hand_over(Binding.PLAIN)
            with pytest.raises(OSError, match="assign"):
                client.connect(server.getsockname())

    def test_it_is_taken_back(self, lease: PortLease) -> None:
        for binding in (Binding.PLAIN, Binding.WILDCARD):
            lease.hand_over(binding)
            lease.take_back()
            assert lease.held
            for host in HOSTS:
                with pytest.raises(OSError, match="in use"):
                    _bind(host, lease.port, reuse=False)
                _bind(host, lease.port, reuse=True)

    def test_it_is_not_taken_back_from_who_has_it(self, lease: PortLease) -> None:
        lease.hand_over(Binding.PLAIN)
        with socket.socket() as server:
            server.bind(("127.0.0.1", lease.port))
            server.listen()
            with pytest.raises(PortError, match=rf"this process \(pid {os.getpid()}\) listens"):
                lease.take_back()
            assert _ports._hold(lease.port) is None, "it stays aside"
        lease.take_back()

    def test_a_released_lease_holds_nothing(self, lease: PortLease) -> None:
        lease.hand_over(Binding.PLAIN)
        lease.release()
        lease.take_back()
        for host in HOSTS:
            _bind(host, lease.port, reuse=False)

    def test_in_a_with_block(self, lease: PortLease) -> None:
        with lease.handed_over() as same:
            assert same is lease
            _bind("127.0.0.1", lease.port, reuse=False)
        assert lease.held
        with lease.handed_over(wildcard=True):
            _bind("0.0.0.0", lease.port, reuse=False)
            if socket.has_ipv6:
                _bind("::", lease.port, reuse=False)
        assert lease.held
        with socket.socket() as server:
            with lease.handed_over():
                server.bind(("127.0.0.1", lease.port))
            assert not lease.held, "the server has it"
        lease.take_back()
        assert lease.held

    def test_a_program(self, lease: PortLease) -> None:
        code = (
            "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1])))\n"
            "s.listen(); print('serving', flush=True); sys.stdin.read()"
        )
        with lease.handed_over():
            program = subprocess.Popen(
                [sys.executable, "-c", code, str(lease.port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert program.stdout is not None
            assert program.stdout.readline() == "serving\n"
        assert holder_of(lease.port).startswith(f"pid {program.pid} (python")
        program.communicate()


class TestBoundSocket:
    @pytest.mark.parametrize("host", HOSTS)
    def test_it_listens_while_the_port_is_held(self, lease: PortLease, host: str) -> None:
        with lease.bound_socket(host) as bound:
            bound.listen()
            assert bound.getsockname()[1] == lease.port
            assert lease.held == _ports.system_holds_ports()

    def test_a_socketserver(self, lease: PortLease) -> None:
        where = "127.0.0.1", lease.port
        with socketserver.TCPServer(where, Echo, bind_and_activate=False) as server:
            server.socket.close()
            server.socket = lease.bound_socket()
            server.server_activate()
            with socket.create_connection(where) as client:
                client.sendall(b"word")
                server.handle_request()
                assert client.recv(4) == b"word"

    def test_a_port_that_somebody_has(self, lease: PortLease) -> None:
        with lease.bound_socket() as bound:
            bound.listen()
            with pytest.raises(PortError, match=f"port {lease.port} is in use\n  this process"):
                lease.bound_socket()

    def test_a_released_lease(self, lease: PortLease) -> None:
        lease.release()
        with pytest.raises(PortError, match=f"port {lease.port} was released"):
            lease.bound_socket()

    def test_an_address_of_nobody(self, lease: PortLease) -> None:
        with pytest.raises(OSError, match="assign"):
            lease.bound_socket("192.0.2.77")


class Echo(socketserver.BaseRequestHandler):
    """Sends back what it is sent first."""

    def handle(self) -> None:
        self.request.sendall(self.request.recv(4))


class TestFallback:
    """Systems where a held port cannot be bound by its server either."""

    @pytest.fixture(autouse=True)
    def switched_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_ports, "system_holds_ports", lambda: False)

    def test_the_port_is_let_go_for_the_server_and_taken_back(self, lease: PortLease) -> None:
        lease.hand_over()
        assert not lease.held
        _bind("127.0.0.1", lease.port, reuse=False)
        lease.take_back()
        assert lease.held
        with pytest.raises(OSError, match="in use"):
            _bind("127.0.0.1", lease.port, reuse=False)

    def test_a_bound_socket_takes_its_place(self, lease: PortLease) -> None:
        with lease.bound_socket() as bound:
            bound.listen()
            assert not lease.held

    def test_says_so_when_somebody_took_it_meanwhile(self, lease: PortLease) -> None:
        lease.hand_over()
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", lease.port))
            with pytest.raises(
                PortError, match=f"port {lease.port} was taken while its server was down"
            ):
                lease.take_back()


def test_where_ports_are_held_handing_over_changes_nothing(lease: PortLease) -> None:
    assert _ports.system_holds_ports() == sys.platform.startswith("linux")
    if _ports.system_holds_ports():
        lease.hand_over()
        assert lease.held


def _free_range(size: int) -> tuple[int, int]:
    """Find ``size`` free ports in a row, below those that the kernel hands out."""
    start = 20000 + os.getpid() % 1000 * 10  # another worker looks elsewhere
    for low in range(start, 32000, size):
        held = [_ports._hold(port) for port in range(low, low + size)]
        for sock in held:
            if sock is not None:
                sock.close()
        if all(held):
            return low, low + size - 1
    raise AssertionError("no free ports in a row")


def test_without_descriptors_it_says_so() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with lease_port():  # what it imports is there
        pass
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 8, hard))
    try:
        with pytest.raises(
            PortError, match=r"no port can be held: Too many open files\n.*ulimit -n"
        ):
            _ports.lease_ports(20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_moment_without_a_free_port_says_nothing_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    holds = _ports.system_holds_ports()
    _ports._tried_to_hold.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(_ports, "_hold", lambda port: None)
        assert not _ports.system_holds_ports()
    assert _ports.system_holds_ports() == holds
