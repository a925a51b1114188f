"""Who does not know the token gets health checks, and has nothing of what he sends opened."""

from __future__ import annotations

import os
import pickle
import random
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pytest_localcluster import LocalCluster, Server, ServicerRuntime
from pytest_localcluster._channel import TOKEN_KEY, open_channel
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._context import token_for
from pytest_localcluster._proto.graph_pb2 import NodeDef
from pytest_localcluster._proto.worker_pb2 import RegisterGraphRequest
from tests.native.fuzz.recording import METHODS, Method
from tests.native.fuzz.strangers import MARK, Opens, call_in_every_way, raw_call, trapped

in_proc = pytest.mark.skipif(sys.platform != "linux", reason="what a task holds is in /proc")

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
OPENS = "/pytest_localcluster.WorkerService/RegisterGraph"

# What a stranger may give as a token: key and value, or none.
GIVEN: dict[str, Callable[[str], Any]] = {
    "none": lambda _: None,
    "wrong": lambda _: ((TOKEN_KEY, "wrong"),),
    "empty": lambda _: ((TOKEN_KEY, ""),),
    "all but one letter": lambda token: ((TOKEN_KEY, token[:-1]),),
    "one letter more": lambda token: ((TOKEN_KEY, token + "x"),),
    "in capitals": lambda token: ((TOKEN_KEY, token.swapcase()),),
    "wrong, then right": lambda token: ((TOKEN_KEY, "wrong"), (TOKEN_KEY, token)),
    "under another key": lambda token: (("token", token), ("authorization", token)),
    "as bytes": lambda token: ((f"{TOKEN_KEY}-bin", token.encode()),),
    "long": lambda _: ((TOKEN_KEY, "x" * 6000),),
}


@pytest.fixture(scope="module")
def native() -> Iterator[Server]:
    with LocalCluster(workers=1, ps=0) as cluster:
        yield cluster.workers[0]


def token_of(server: Server) -> str:
    token = token_for(server.target)
    assert token is not None
    return token


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("given", GIVEN)
def test_no_pickle_of_a_stranger_is_opened(
    native: Server, method: Method, given: str, tmp_path: Path
) -> None:
    target = tmp_path / "opened"
    data = trapped(method.request, pickle.dumps(Opens(target))).SerializeToString()
    metadata = GIVEN[given](token_of(native))
    with open_channel(native.address) as channel:
        for error in call_in_every_way(channel, method.path, data, metadata):
            assert error.code() is UNAUTHENTICATED
            assert token_of(native) not in error.details()
    assert not target.exists()


@pytest.mark.parametrize("op", ["Function", "Const"])
def test_with_the_token_pickles_are_opened(native: Server, op: str, tmp_path: Path) -> None:
    """Otherwise the tests above would pass whatever a task does."""
    target = tmp_path / "opened"
    request = RegisterGraphRequest(allow_soft_placement=True)
    node = trapped(NodeDef, pickle.dumps(Opens(target)))
    node.op, node.num_outputs = op, 1
    del node.input[:]
    request.graph_def.node.append(node)
    with open_channel(native.address, token_of(native)) as channel:
        channel.unary_unary(OPENS)(request.SerializeToString(), timeout=10)
    assert target.read_text() == MARK


def add_opener(server: grpc.Server) -> None:
    """Services of a user who unpickles what comes."""

    def unary(request: Any, context: Any) -> bytes:
        return b"opened"

    def stream(request: Any, context: Any) -> Iterator[bytes]:
        yield b"opened"

    methods = {
        f"{requests}_{responses}": getattr(grpc, f"{requests}_{responses}_rpc_method_handler")(
            unary if responses == "unary" else stream, request_deserializer=pickle.loads
        )
        for requests in ("unary", "stream")
        for responses in ("unary", "stream")
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Opener", methods),))


@pytest.fixture(scope="module")
def opener() -> Iterator[Server]:
    runtime = ServicerRuntime(worker=add_opener, token=True)
    with LocalCluster(workers=1, ps=0, runtime=runtime) as cluster:
        yield cluster.workers[0]


@pytest.mark.parametrize("given", GIVEN)
def test_services_that_ask_for_the_token_get_nothing_of_a_strangers(
    opener: Server, given: str, tmp_path: Path
) -> None:
    target = tmp_path / "opened"
    metadata = GIVEN[given](token_of(opener))
    with open_channel(opener.address) as channel:
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            data = pickle.dumps(Opens(target))
            for error in call_in_every_way(channel, f"/Opener/{kind}", data, metadata):
                assert error.code() is UNAUTHENTICATED
    assert not target.exists()
    with open_channel(opener.address, token_of(opener)) as channel:
        assert channel.unary_unary("/Opener/unary_unary")(data, timeout=10) == b"opened"
    assert target.read_text() == MARK


@pytest.mark.parametrize("server", ["native", "opener"])
@pytest.mark.parametrize(
    "value",
    [b"", b"caf\xc3\xa9", b"\xff\xfe", b"\x00\x01\x7f", bytes(range(128, 256)), b"%00", b" "],
)
def test_tokens_that_are_no_text_are_wrong_tokens(
    request: pytest.FixtureRequest, server: str, value: bytes
) -> None:
    task: Server = request.getfixturevalue(server)
    port = int(task.address.rpartition(":")[2])
    answer = raw_call(port, OPENS, [(TOKEN_KEY.encode(), value)])
    assert b"grpc-status\x0216" in answer
    assert b"belongs to a cluster with another token" in answer


def test_headers_without_end_end_the_connection_and_nothing_else(native: Server) -> None:
    port = int(native.address.rpartition(":")[2])
    for headers in (
        [(TOKEN_KEY.encode(), b"x" * 200_000)],
        [(TOKEN_KEY.encode(), b"x")] * 3000,
        [(b"a" * 50_000, b"")],
    ):
        assert b"grpc-status\x020" not in raw_call(port, OPENS, headers)
    check_health(native)


def check_health(server: Server) -> None:
    with open_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watched = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff", timeout=10)
        assert caught.value.code() in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.INTERNAL,  # of a server of the user's own
        )


def threads_and_descriptors() -> tuple[int, int]:
    import os
    import threading

    return len(threading.enumerate()), len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@in_proc
def test_bytes_that_are_no_http_are_hung_up_on(native: Server) -> None:
    port = int(native.address.rpartition(":")[2])
    rng = random.Random(5)
    before = native.run(threads_and_descriptors)[1]
    for number in range(150):
        noise = rng.randbytes(rng.choice((1, 9, 24, 500, 20_000)))
        start = (
            b"",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01",
        )
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            sock.settimeout(0.02)
            try:
                sock.sendall(start[number % 4] + noise)
                while sock.recv(65536):
                    pass
            except OSError:
                pass  # cut off, or waiting for more
    check_health(native)
    assert poll(lambda: native.run(threads_and_descriptors)[1] <= before + 2, Deadline(20))


def peak() -> int:
    from pathlib import Path

    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) >> 10


@in_proc
def test_a_stranger_cannot_have_a_task_take_memory(native: Server) -> None:
    before = native.run(peak)
    with open_channel(native.address) as channel:
        call = channel.unary_unary(OPENS)
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                call(os.urandom(1 << 20) * 64, timeout=20)
            assert caught.value.code() is UNAUTHENTICATED
    assert native.run(peak) - before < 32


@in_proc
def test_a_stranger_keeps_no_thread(native: Server) -> None:
    """Calls that never send a message, or never end."""
    before = native.run(threads_and_descriptors)[0]
    with open_channel(native.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watched = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(50)]
        for watch in watched:
            assert next(watch).status
        held = [channel.stream_stream(OPENS)(iter(list[bytes]())) for _ in range(50)]
        for call in held:
            assert call.code() is UNAUTHENTICATED
        # The threads that answered are kept for the next calls, and are no more than those.
        assert native.run(threads_and_descriptors)[0] - before <= 64
        check_health(native)
        for watch in watched:
            watch.cancel()
