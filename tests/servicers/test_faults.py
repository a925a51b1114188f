"""Tasks with services of the user's own that end, begin anew, or do not come up."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from pytest_localcluster import (
    LocalCluster,
    PortError,
    ServicerRuntime,
    SpecError,
    StartError,
    StopError,
)
from pytest_localcluster._clock import Deadline, poll
from tests.servicers import services
from tests.servicers.services import ECHO, adder, call

MakeCluster = Callable[..., LocalCluster]


def add_counter(server: grpc.Server) -> None:
    calls = []

    def count(request: bytes, context: Any) -> bytes:
        calls.append(request)
        return str(len(calls)).encode()

    adder("Count", count)(server)


def test_a_restart_is_at_the_same_address_with_nothing_kept(make_cluster: MakeCluster) -> None:
    (ps,) = make_cluster(ServicerRuntime(ps=add_counter), ps=1).ps
    address, channel, plain = ps.address, ps.channel(), grpc.insecure_channel(ps.target)
    assert [call(channel, "Count") for _ in range(3)] == ["1", "2", "3"]
    for _ in range(3):
        ps.restart()
        assert ps.address == address
        assert [call(channel, "Count") for _ in range(2)] == ["1", "2"], "and channels find it"
        assert call(plain, "Count", wait_for_ready=True) == "3"
    plain.close()


def test_reset_begins_anew(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(ServicerRuntime(worker=add_counter, ps=add_counter), workers=2, ps=1)
    channels = [server.channel() for server in cluster.servers]
    for _ in range(2):
        assert [call(channel, "Count") for channel in channels] == ["1"] * 3
        cluster.reset()


def test_a_stopped_task_listens_no_more(make_cluster: MakeCluster) -> None:
    before = set(threading.enumerate())
    (ps,) = make_cluster(ServicerRuntime(ps=add_counter), ps=1).ps
    with grpc.insecure_channel(ps.target) as channel:
        assert call(channel, "Count") == "1"
        ps.stop()
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            call(channel, "Count")
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", int(ps.address.rpartition(":")[2])))
    ps.cluster.stop()
    assert poll(lambda: set(threading.enumerate()) <= before, Deadline(10)), threading.enumerate()


@pytest.mark.parametrize("launcher", ["process"], indirect=True)
class TestProcesses:
    def test_a_killed_task_is_unavailable(self, make_cluster: MakeCluster) -> None:
        (ps,) = make_cluster(ServicerRuntime(ps=add_counter), ps=1).ps
        channel = ps.channel()
        assert call(channel, "Count") == "1"
        ps.kill()
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            call(channel, "Count")
        ps.restart()
        assert call(channel, "Count") == "1", "and not once the channel dares to try again"

    def test_a_suspended_task_answers_later(self, make_cluster: MakeCluster) -> None:
        (ps,) = make_cluster(ServicerRuntime(ps=add_counter), ps=1).ps
        count = ps.channel().unary_unary("/tests.Own/Count")
        count(b"", timeout=20)
        with ps.suspended():
            waiting = count.future(b"", timeout=20)
            with pytest.raises(grpc.FutureTimeoutError):
                waiting.result(timeout=0.2)
        assert waiting.result() == b"2"

    def test_a_method_that_never_ends_delays_no_stop(self, make_cluster: MakeCluster) -> None:
        cluster = make_cluster(ServicerRuntime(ps=add_stuck), ps=1)
        channel = cluster.ps[0].channel()
        stuck = channel.unary_unary("/tests.Stuck/Wait").future(b"")
        call(channel, "Wait")
        cluster.stop()
        assert cluster.stop_seconds is not None
        assert cluster.stop_seconds < cluster.config.stop_timeout / 2, "nobody had to be waited for"
        assert stuck.exception(timeout=20) is not None


def add_stuck(server: grpc.Server) -> None:
    begun = threading.Event()

    def never_ends(request: bytes, context: Any) -> bytes:
        begun.set()
        services.released.wait(60)
        return b""

    adder("Wait", never_ends, "tests.Stuck")(server)
    adder("Wait", lambda request, context: str(begun.wait(20)).encode())(server)


@pytest.mark.parametrize("launcher", ["thread"], indirect=True)
def test_a_thread_that_does_not_end_is_named(make_cluster: MakeCluster) -> None:
    services.released.clear()
    cluster = make_cluster(ServicerRuntime(ps=add_stuck), ps=1)
    (ps,) = cluster.ps
    channel = ps.channel()
    stuck = channel.unary_unary("/tests.Stuck/Wait").future(b"")
    assert call(channel, "Wait") == "True"
    try:
        with pytest.raises(StopError) as caught:
            cluster.stop()
    finally:
        services.released.set()
    assert caught.value.survivors == ("/tests.Stuck/Wait",)
    text = str(caught.value)
    assert text.startswith("/job:ps/task:0 has stopped serving, but not everything of it ended\n")
    assert f"at {ps.address}, still running: /tests.Stuck/Wait\n" in text
    assert "services.released.wait(60)" in text, "where it is"
    assert "or use launcher='process', which can kill it" in text
    assert stuck.exception(timeout=20) is not None


def test_a_method_that_heeds_the_end_of_its_call_can_be_stopped(make_cluster: MakeCluster) -> None:
    def add(server: grpc.Server) -> None:
        begun = threading.Event()

        def patient(request: bytes, context: Any) -> bytes:
            ended = threading.Event()
            context.add_callback(ended.set)
            begun.set()
            ended.wait(60)
            return b""

        adder("Wait", patient, "tests.Patient")(server)
        adder("Begun", lambda request, context: str(begun.wait(20)).encode())(server)

    cluster = make_cluster(ServicerRuntime(ps=add), ps=1)
    channel = cluster.ps[0].channel()
    waiting = channel.unary_unary("/tests.Patient/Wait").future(b"")
    call(channel, "Begun")
    cluster.stop()
    assert waiting.exception(timeout=20) is not None


def test_an_adder_that_raises(make_cluster: MakeCluster) -> None:
    def add(server: grpc.Server) -> None:
        services.add_echo(server)
        raise LookupError("no model there")

    with pytest.raises(StartError) as caught:
        make_cluster(ServicerRuntime(ps=add), ps=1)
    assert isinstance(caught.value.__cause__, LookupError)
    assert "/job:ps/task:0 did not start: LookupError: no model there" in str(caught.value)
    assert 'raise LookupError("no model there")' in (caught.value.evidence or "")


def test_an_adder_that_imports_what_is_not_there(make_cluster: MakeCluster) -> None:
    def add(server: grpc.Server) -> None:
        import no_such_module_pb2_grpc  # type: ignore[import-not-found]  # noqa: F401

    with pytest.raises(StartError, match="No module named 'no_such_module_pb2_grpc'") as caught:
        make_cluster(ServicerRuntime(worker=add), workers=1)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (lambda server: server.add_insecure_port("[::]:50051"), "add_insecure_port('[::]:50051')"),
        (lambda server: server.start(), "start()"),
        (lambda server: server.stop(None), "stop()"),
        (lambda server: server.wait_for_termination(), "wait_for_termination()"),
    ],
)
def test_an_adder_that_takes_the_server_for_its_own(
    make_cluster: MakeCluster, line: Callable[[Any], object], message: str
) -> None:
    def add(server: grpc.Server) -> None:
        assert isinstance(server, grpc.Server)
        services.add_echo(server)
        line(server)

    with pytest.raises(StartError) as caught:
        make_cluster(ServicerRuntime(ps=add), ps=1)
    assert isinstance(caught.value.__cause__, SpecError)
    text = str(caught.value)
    assert f"{message} is not for functions that register services: /job:ps/task:0 starts" in text
    assert "To fix this: leave that line out" in text


def test_a_service_that_is_registered_twice(make_cluster: MakeCluster) -> None:
    add = adder("A", lambda request, context: b"")
    with pytest.raises(StartError, match="service tests.Own is registered twice on /job:ps/task:0"):
        make_cluster(ServicerRuntime(ps=[add, add]), ps=1)


def test_a_port_of_the_users_own(make_cluster: MakeCluster) -> None:
    """TLS, for instance: the address of the task stays as it is."""

    def add(server: grpc.Server) -> None:
        port = server.add_secure_port("localhost:0", grpc.local_server_credentials())
        adder("Port", lambda request, context: str(port).encode())(server)

    (ps,) = make_cluster(ServicerRuntime(ps=add), ps=1).ps
    port = call(ps.channel(), "Port")
    credentials = grpc.local_channel_credentials()
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        assert call(channel, "Port") == port


def test_a_port_that_is_taken(make_cluster: MakeCluster) -> None:
    (ps,) = make_cluster(ServicerRuntime(ps=services.add_echo), ps=1).ps
    ps.stop()
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", int(ps.address.rpartition(":")[2])))
        stranger.listen()
        message = "/job:ps/task:0 cannot serve: its port is taken"
        if ps.pid != os.getpid():  # a thread would say that of itself
            message += rf": pid {os.getpid()} \(.+\) listens there"
        with pytest.raises(StartError, match=message) as e:
            ps.restart()
        assert isinstance(e.value.__cause__, PortError)
    ps.restart()
    assert call(ps.channel(), "Say", b"1", service=ECHO) == "/job:ps/task:0 1"
