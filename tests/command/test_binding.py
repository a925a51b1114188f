"""Programs that bind their ports without SO_REUSEADDR, which the leases of these ports refuse."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Any

import pytest

from pytest_localcluster import CommandRuntime, LocalCluster, Server, StartError
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._ports import Binding, system_holds_ports
from pytest_localcluster._runtimes import Assignment
from tests.command.commands import SERVE, said
from tests.reach import listens

pytestmark = pytest.mark.skipif(
    not system_holds_ports(), reason="this system's leases let go of their ports"
)

PLAIN = """
import socket, sys, time
print("begun", flush=True)
kept = []
for port in sys.argv[2:]:
    kept.append(socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET))
    kept[-1].bind((sys.argv[1], int(port)))
    kept[-1].listen()
print("serving", flush=True)
time.sleep(1000)
"""
HOSTS = ["127.0.0.1", "0.0.0.0", *(["::1", "::"] if socket.has_ipv6 else [])]


def python(code: str, *arguments: str) -> list[Any]:
    return [sys.executable, "-S", "-c", code, *arguments]


def plain(host: str, *ports: str) -> list[Any]:
    return python(PLAIN, host, "{port}", *ports)


def is_free(host: str, port: int) -> bool:
    """Return whether a program that does not set SO_REUSEADDR could have the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as stranger:
        try:
            stranger.bind((host, port))
        except OSError:
            return False
    return True


def port(server: Server) -> int:
    return int(server.address.rpartition(":")[2])


def answers(server: Server, host: str) -> bool:
    """Return whether something listens on the port, at that address."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        return probe.connect_ex((host, port(server))) == 0


def starts(server: Server) -> int:
    return server.log.text().count("begun")


@pytest.mark.parametrize("host", HOSTS)
def test_it_serves_at_its_address_again_and_again(host: str) -> None:
    with LocalCluster(workers=0, runtime=CommandRuntime(ps=plain(host))) as cluster:
        (server,) = cluster.ps
        tries = 3 if host == "::" else 2
        assert answers(server, host)
        assert starts(server) == tries
        assert "does not set SO_REUSEADDR" in server.log.text()
        server.restart()
        server.kill()
        server.start()
        assert answers(server, host)
        assert starts(server) == tries + 2, "which way it needs is known"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_when_it_has_ended_nobody_can_have_its_port(end: str) -> None:
    with LocalCluster(workers=0, runtime=CommandRuntime(ps=plain("127.0.0.1"))) as cluster:
        (server,) = cluster.ps
        getattr(server, end)()
        assert not any(is_free(host, port(server)) for host in HOSTS)
        server.start()
        assert listens(server.address)


def test_after_its_own_end_its_port_is_still_nobodys_lease() -> None:
    with LocalCluster(workers=0, runtime=CommandRuntime(ps=plain("127.0.0.1"))) as cluster:
        (server,) = cluster.ps
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        server.join(check=False)
        assert not is_free("::", port(server)), "so a lease, which binds that, is refused"
        server.restart()
        assert listens(server.address)


def test_the_next_cluster_of_a_runtime_needs_no_second_try() -> None:
    runtime = CommandRuntime(ps=plain("127.0.0.1"))
    for tries in (2, 1):
        with LocalCluster(workers=0, ps=2, runtime=runtime) as cluster:
            assert [starts(server) for server in cluster.ps] == [tries, tries]


def test_who_sets_the_option_has_no_window_opened() -> None:
    with LocalCluster(workers=0, runtime=CommandRuntime(ps=SERVE)) as cluster:
        lease = cluster.ps[0]._life.place.lease
        assert cluster.ps[0]._life._binding is Binding.REUSE
        assert lease.held  # type: ignore[attr-defined]  # a PortLease
        assert poll(lambda: cluster.ps[0].log.text().count("serving") == 1, Deadline(20))


SILENT = """
import socket, sys, time
server = socket.socket()
try:
    server.bind(("127.0.0.1", int(sys.argv[1])))
except OSError as error:
    {}
server.listen()
time.sleep(1000)
"""


@pytest.mark.parametrize(
    "then",
    [
        "sys.exit(3)",
        "print(error, flush=True); time.sleep(1000)",
        "print('EADDRINUSE', flush=True); sys.exit(0)",
        "print(f'listen tcp :{sys.argv[1]}: bind: address already in use'); sys.exit(1)",
        "raise",
    ],
    ids=["silent", "stays", "exits with 0", "names its port", "raises"],
)
def test_however_it_takes_a_refusal(then: str) -> None:
    command = python(SILENT.format(then), "{port}")
    with LocalCluster(workers=0, runtime=CommandRuntime(ps=command)) as cluster:
        assert listens(cluster.ps[0].address)


def test_ports_by_name_and_the_port_to_meet_at() -> None:
    runtime = CommandRuntime(worker=["sh", "-c", 'exec "$@" "$MASTER_PORT"', "sh"])
    command = [*runtime.commands["worker"], *plain("127.0.0.1", "{ports[admin]}")]
    runtime = CommandRuntime(worker=command)
    with LocalCluster(workers=1, ps=0, runtime=runtime, ports=("admin",)) as cluster:
        (server,) = cluster.workers
        further = [server.ports["admin"], int(cluster.environ(server)["MASTER_PORT"])]
        assert poll(lambda: all(listens(f"localhost:{one}") for one in further), Deadline(20))
        server.stop()
        assert not any(is_free("127.0.0.1", one) for one in further)


class TestRefusedForGood:
    """An address that is in use by somebody else: the error names it, and who has it."""

    def test_an_address_that_is_not_leased(self) -> None:
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", 0))
            stranger.listen()
            taken = stranger.getsockname()[1]
            code = (
                f"print('cannot bind 127.0.0.1:{taken}: Address already in use')\n"
                "raise SystemExit(1)"
            )
            cluster = LocalCluster(workers=0, runtime=CommandRuntime(ps=python(code)))
            with pytest.raises(StartError) as caught:
                cluster.start()
        text = str(caught.value)
        assert f"localhost:{taken} is in use: this process (pid {os.getpid()}) listens" in text
        assert "by ports= of the cluster and {ports[NAME]}" in text
        assert "started once more" not in cluster.servers[0].log.text(), "it is not our lease's"

    def test_an_address_that_the_command_names(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            taken = stranger.getsockname()[1]
            command = [sys.executable, "-m", "http.server", str(taken), "--bind", "127.0.0.1"]
            runtime = CommandRuntime(ps=command)
            message = f"localhost:{taken} is in use: this process"
            with pytest.raises(StartError, match=message):
                LocalCluster(workers=0, runtime=runtime, start_timeout=30).start()

    def test_an_address_that_nobody_names(self) -> None:
        code = "print('Address already in use'); raise SystemExit(1)"
        with pytest.raises(StartError, match=r": an address is in use \(Address already in use\)"):
            LocalCluster(workers=0, runtime=CommandRuntime(ps=python(code))).start()

    def test_a_program_that_waits_for_it(self) -> None:
        code = "import time; print('bind: address already in use', flush=True); time.sleep(1000)"
        runtime = CommandRuntime(ps=python(code))
        with pytest.raises(StartError, match=r"nothing listens on .*; an address is in use"):
            LocalCluster(workers=0, runtime=runtime, start_timeout=1.0).start()

    def test_a_lease_that_a_stranger_took(self) -> None:
        strangers: list[socket.socket] = []

        class Robbed(CommandRuntime):
            def entry(self, assignment: Assignment) -> Any:
                address = assignment.context.cluster_spec.task_address("ps", 0)
                if not strangers:
                    number = int(address.rpartition(":")[2])
                    strangers.append(socket.create_server(("127.0.0.1", number)))
                return super().entry(assignment)

        # Ready by its words: somebody else listens on the port.
        runtime = Robbed(ps=plain("127.0.0.1"), ready=said("serving"))
        with LocalCluster(workers=0, runtime=runtime) as cluster, strangers[0]:
            assert port(cluster.ps[0]) != strangers[0].getsockname()[1], "it began anew"
            assert listens(cluster.ps[0].address)

    def test_connections_of_its_own_that_linger(self) -> None:
        code = (
            "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1])))\n"
            "s.listen(); print('serving', flush=True)\n"
            "while True: s.accept()[0].close()"
        )
        runtime = CommandRuntime(ps=python(code, "{port}"), ready=said("serving"))
        with LocalCluster(workers=0, runtime=runtime) as cluster:
            (server,) = cluster.ps
            with socket.create_connection(("127.0.0.1", port(server))) as client:
                assert client.recv(1) == b"", "it hangs up first"
            with pytest.raises(StartError, match="connections of a program that has ended linger"):
                server.restart()
