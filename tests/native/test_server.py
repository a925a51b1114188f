"""The life of a native server: birth, token, address, reset, end."""

from __future__ import annotations

import json
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pytest_localcluster._channel import TOKEN_KEY, open_channel
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._ports import lease_port
from pytest_localcluster._proto import master_pb2, worker_pb2
from pytest_localcluster._runtimes import find_runtime
from pytest_localcluster._runtimes._grpc import has_ipv6_loopback
from pytest_localcluster._runtimes._threads import Threads
from pytest_localcluster._runtimes.native import RUNTIME
from pytest_localcluster.errors import (
    DeadlineExceededError,
    PortError,
    StopError,
    UnauthenticatedError,
    UnavailableError,
)
from tests.native.conftest import METADATA, TOKEN, Cluster, Shared, gate
from tests.native.nodes import call, const, well

PS0, W0, W1 = "/job:ps/task:0", "/job:worker/task:0", "/job:worker/task:1"

METHODS = [
    (f"/{service.full_name}/{method.name}", method.client_streaming, method.server_streaming)
    for module in (master_pb2, worker_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def invoke(
    channel: grpc.Channel, method: tuple[str, bool, bool], metadata: Any, data: bytes = b""
) -> Any:
    """Call a method with bytes; return its answer or the list of its answers."""
    name, client_streams, server_streams = method
    kinds = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    request: Any = iter([data]) if client_streams else data
    answer = kinds[client_streams, server_streams](name)(request, metadata=metadata, timeout=10)
    return list(answer) if server_streams else answer


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method[0].rpartition("/")[2])
@pytest.mark.parametrize("given", [None, "wrong", TOKEN[:-1]])
def test_no_call_is_answered_without_the_token(
    cluster: Cluster, method: tuple[str, bool, bool], given: str | None
) -> None:
    metadata = None if given is None else ((TOKEN_KEY, given),)
    with pytest.raises(grpc.RpcError) as caught:
        invoke(cluster.channel(PS0), method, metadata)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    details = caught.value.details()
    assert f"the task at {cluster.address(PS0)} " in details
    assert ("another token" if given else "without its cluster's token") in details
    assert "To fix this: pass Session(..., token=...)" in details
    assert TOKEN not in details
    assert len(METHODS) == 16


def test_health_needs_no_token_and_is_known_by_its_standard_name(cluster: Cluster) -> None:
    stub: Any = health_pb2_grpc.HealthStub(cluster.channel(PS0))
    answer = stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_an_unknown_method_is_unimplemented(cluster: Cluster) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        invoke(
            cluster.channel(PS0), ("/pytest_localcluster.WorkerService/No", False, False), METADATA
        )
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_taken_port_is_refused_and_given_back(make_cluster: Any, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    cluster = make_cluster(1, 0)
    cluster.servers.pop(W0).stop()
    port = cluster.leases[0].port
    with socket.socket(family, socket.SOCK_STREAM) as stranger:
        try:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind((host, port))
        except OSError as error:
            pytest.skip(f"this machine has no {host}: {error}")
        stranger.listen()
        with pytest.raises(
            PortError, match="/job:worker/task:0 cannot serve: its port is taken"
        ) as caught:
            cluster.start(W0)
        assert caught.value.address == f"localhost:{port}"
        assert "Failed to bind" in str(caught.value)
    cluster.start(W0)  # nothing of the attempt is left


def test_both_loopback_addresses_are_served_and_no_other(cluster: Cluster) -> None:
    port = int(cluster.address(PS0).rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    if has_ipv6_loopback():
        with socket.create_connection(("::1", port), timeout=5):
            pass
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", port))


def test_a_stopped_server_leaves_nothing(make_cluster: Any) -> None:
    before = set(threading.enumerate())
    for _ in range(3):
        cluster = make_cluster(2, 1)
        session = cluster.session()
        session.add(call("a", np.zeros, "c:0", device=PS0), const("c", np.int64(2), device=W1))
        session.run("a:0")
        for channel in cluster._channels.values():
            channel.close()
        for name in list(cluster.servers):
            cluster.servers.pop(name).stop()
            port = int(cluster.address(name).rpartition(":")[2])
            with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
                probe.connect(("127.0.0.1", port))
    # The threads of gRPC's channels end by themselves, a moment after their last call.
    assert poll(lambda: set(threading.enumerate()) <= before, Deadline(10)), threading.enumerate()


def test_a_server_can_be_started_again_at_its_address(cluster: Cluster) -> None:
    for _ in range(3):
        cluster.servers.pop(PS0).stop()
        cluster.start(PS0)
        assert cluster.variables(PS0) == {}


def test_stopping_names_the_operation_that_does_not_end(make_cluster: Any, shared: Shared) -> None:
    cluster = make_cluster(1, 1)
    session = cluster.session()
    session.add(call("endless", gate, device=PS0))
    future = session.master.RunStep.future(session.request(["endless:0"]), metadata=METADATA)
    shared.wait_for_operation()
    with pytest.raises(
        StopError, match="/job:ps/task:0 has stopped serving, but not every"
    ) as caught:
        cluster.servers.pop(PS0).stop()
    assert caught.value.survivors == ("endless on /job:ps/replica:0/task:0/device:CPU:0",)
    assert "still running: endless on /job:ps" in str(caught.value)
    assert "launcher='process'" in str(caught.value)
    # Everybody else has been told.
    assert future.result(timeout=10).status.code == UnavailableError.code


def test_variables_of_a_task_that_cannot_be_asked(cluster: Cluster) -> None:
    with pytest.raises(UnauthenticatedError, match="another token"):
        RUNTIME.variables(cluster.address(PS0), "wrong", 10)
    cluster.servers.pop(PS0).stop()
    with pytest.raises(UnavailableError, match="the task at localhost:.* could not be reached"):
        RUNTIME.variables(cluster.address(PS0), TOKEN, 10)
    # A port that nobody answers at, though connections to it are taken.
    with lease_port() as lease, socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        silent.bind(("127.0.0.1", lease.port))
        silent.listen()
        with pytest.raises((DeadlineExceededError, UnavailableError)):
            RUNTIME.variables(lease.address, TOKEN, 0.2)


def test_the_runtime_is_plain_data() -> None:
    assert pickle.loads(pickle.dumps(RUNTIME)) == RUNTIME
    assert find_runtime("native") is RUNTIME
    assert RUNTIME.target("localhost:1") == "grpc://localhost:1"
    assert RUNTIME.resets_in_place
    assert RUNTIME.start_timeout == 10


def test_naming_the_runtime_imports_neither_grpc_nor_numpy() -> None:
    code = (
        "import sys; from pytest_localcluster._runtimes import find_runtime;"
        "find_runtime('native').preload; print('grpc' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_task_imports_nothing_that_was_not_preloaded(make_cluster: Any) -> None:
    # Serve, answer, stop in a fresh interpreter: what it imports meanwhile every task would import.
    code = """
import importlib, json, pickle, sys
from pytest_localcluster._runtimes import find_runtime
runtime = find_runtime("native")
for name in runtime.preload:
    importlib.import_module(name)
import pytest_localcluster._runtimes.native.reading  # ours, not the task's
assignment = pickle.loads(sys.stdin.buffer.read())
before = set(sys.modules)
server = runtime.serve(assignment)
ours = runtime.variables("localhost:%d" % int(sys.argv[1]), assignment.token, 10)
server.stop()
print(json.dumps([sorted(set(sys.modules) - before), sorted(ours)]))
"""
    cluster = make_cluster(1, 0)
    cluster.servers.pop(W0).stop()
    done = subprocess.run(
        [sys.executable, "-c", code, str(cluster.leases[0].port)],
        input=pickle.dumps(cluster.assignment(W0)),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == [[], []]


def test_threads_have_no_limit_are_used_again_and_end() -> None:
    threads = Threads("test")
    barrier = threading.Barrier(40, timeout=10)
    futures = [threads.submit(barrier.wait) for _ in range(40)]
    assert sorted(future.result(10) for future in futures) == list(range(40))
    assert threads.submit(threading.get_ident).result(10)
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(10)
    assert all(thread.daemon for thread in threads._members)
    started = threads._started
    # A thread is free again only a moment after its future is done.
    assert poll(lambda: threads._idle == 40, Deadline(10))
    for _ in range(100):
        threads.submit(int).result(10)
    assert threads._started == started == 40
    threads.shutdown()
    assert not any(thread.is_alive() for thread in threads._members)
    with pytest.raises(UnavailableError, match="test has stopped"):
        threads.run(int)


def test_nobody_waits_in_vain_for_an_error(caplog: pytest.LogCaptureFixture) -> None:
    threads = Threads("test")
    threads.run(lambda: 1 // 0)
    threads.shutdown()
    assert "ZeroDivisionError" in caplog.text


def test_a_channel_of_ours_reaches_a_server_through_no_proxy(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    with open_channel(cluster.address(PS0)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status


def test_a_stop_is_no_news_for_connections_that_are_idle(
    make_cluster: Callable[..., Cluster], capfd: pytest.CaptureFixture[str]
) -> None:
    cluster = make_cluster(1, 1)
    session = cluster.session()
    session.add(*well())
    assert session.run("ok:0") == 1
    channel = open_channel(cluster.address(W0))
    closed = threading.Event()

    def watch(state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.IDLE:
            closed.set()

    grpc.channel_ready_future(channel).result(timeout=10)
    channel.subscribe(watch)
    for server in cluster.servers.values():
        server.stop()
    assert closed.wait(10)
    channel.close()
    assert "goaway" not in capfd.readouterr().err.lower()
