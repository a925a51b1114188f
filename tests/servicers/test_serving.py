"""What ServicerRuntime's tasks serve: whatever registers it, on both launchers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pytest_localcluster import (
    LocalCluster,
    ServicerRuntime,
    UnsupportedError,
    Variable,
    current_task,
    device,
)
from pytest_localcluster._clock import Deadline, poll
from tests.servicers import services
from tests.servicers.services import ECHO, adder, call, check

MakeCluster = Callable[..., LocalCluster]


class OwnHealth(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc has no types
    """A servicer of generated code, of the test file's own."""

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        return health_pb2.HealthCheckResponse(status="NOT_SERVING")


def add_from_the_test_file(server: grpc.Server, task: Any) -> None:
    assert task == current_task()
    adder("Who", lambda request, context: f"{task.task} at {task.target}".encode())(server)


def test_adders_of_every_kind(make_cluster: MakeCluster) -> None:
    class Adder:
        def __call__(self, server: grpc.Server) -> None:
            adder("A", lambda request, context: b"an object", "tests.Object")(server)

    runtime = ServicerRuntime(
        {"ps": [services.add_echo, add_from_the_test_file, Adder()]},
        worker=functools.partial(health_pb2_grpc.add_HealthServicer_to_server, OwnHealth()),
        chief=lambda server: adder("L", lambda request, context: b"a lambda")(server),
    )
    cluster = make_cluster(runtime, workers=1, ps=2, jobs={"chief": 1})
    for ps in cluster.ps:
        assert call(ps.channel(), "Say", b"hello", service=ECHO) == f"{ps.task} hello"
        assert call(ps.channel(), "Who") == f"{ps.task} at {ps.address}"
        assert call(ps.channel(), "A", service="tests.Object") == "an object"
    assert check(cluster.workers[0]) == "NOT_SERVING", "the user's own, not ours"
    assert call(cluster.jobs["chief"][0].channel(), "L") == "a lambda"


def test_every_kind_of_method_knows_its_task(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(ServicerRuntime(ps=services.add_echo), ps=2)
    for ps in cluster.ps:
        channel = ps.channel()
        spell = channel.unary_stream(f"/{ECHO}/Spell")
        assert list(spell(b"ab", timeout=20)) == [f"{ps.task} {x}".encode() for x in "ab"]
        join = channel.stream_unary(f"/{ECHO}/Join")
        assert join(iter([b"a", b"b"]), timeout=20) == f"{ps.task} a b".encode()
        chat = channel.stream_stream(f"/{ECHO}/Chat")
        assert list(chat(iter([b"a", b"b"]), timeout=20)) == [
            f"{ps.task} {x}".encode() for x in "ab"
        ]


def test_what_grpc_calls_itself_knows_its_task(make_cluster: MakeCluster) -> None:
    """The decoder of requests, the encoder of responses, and what is called at a call's end."""

    def add(server: grpc.Server) -> None:
        ended: list[bytes] = []

        def decode(data: bytes) -> bytes:
            return data + f" decoded by {current_task().task}".encode()

        def encode(data: bytes) -> bytes:
            return data + f" encoded by {current_task().task}".encode()

        def method(request: bytes, context: Any) -> bytes:
            before = b" after ".join(ended)
            context.add_callback(lambda: ended.append(str(current_task().task).encode()))
            return request + before

        handlers = {"M": grpc.unary_unary_rpc_method_handler(method, decode, encode)}
        server.add_registered_method_handlers("tests.Own", handlers)

    (ps,) = make_cluster(ServicerRuntime(ps=add), ps=1).ps
    channel = ps.channel()
    once = f" decoded by {ps.task} encoded by {ps.task}"
    assert call(channel, "M") == once
    # The end of the first call may come after the next one.
    assert poll(lambda: f"by {ps.task}{ps.task}" in call(channel, "M"), Deadline(20))


def test_two_jobs_call_each_other(make_cluster: MakeCluster) -> None:
    def add_worker(server: grpc.Server, task: Any) -> None:
        def ask(request: bytes, context: Any) -> bytes:
            answers = []
            for address in task.cluster_spec.as_dict()["ps"]:
                with grpc.insecure_channel(address) as channel:
                    answers.append(call(channel, "Tell", str(task.task).encode()))
            return ", ".join(answers).encode()

        adder("Ask", ask)(server)
        services.add_echo(server)

    def add_ps(server: grpc.Server, task: Any) -> None:
        def tell(request: bytes, context: Any) -> bytes:
            address = task.cluster_spec.task_address("worker", 0)
            with grpc.insecure_channel(address) as channel:
                echo = call(channel, "Say", request, service=ECHO)
            return f"{task.task} heard {echo}".encode()

        adder("Tell", tell)(server)

    cluster = make_cluster(ServicerRuntime(worker=add_worker, ps=add_ps), workers=1, ps=2)
    echo = "/job:worker/task:0 /job:worker/task:0"
    assert call(cluster.workers[0].channel(), "Ask") == (
        f"/job:ps/task:0 heard {echo}, /job:ps/task:1 heard {echo}"
    )


def test_functions_run_in_such_tasks(make_cluster: MakeCluster, launcher: str) -> None:
    cluster = make_cluster(ServicerRuntime(worker=services.add_echo), workers=2)
    call(cluster.workers[1].channel(), "Say", b"psst", service=ECHO)

    def look() -> tuple[str, int, list[str]]:
        return str(current_task().task), os.getpid(), services.heard[-1:]

    first, second = cluster.run(look)
    assert first[0] == "/job:worker/task:0"
    assert second == ("/job:worker/task:1", cluster.workers[1].pid, ["psst"])
    if launcher == "process":
        assert first[2] == [], "each process has a module of its own"


@pytest.mark.parametrize("launcher", ["thread"], indirect=True)
def test_threads_share_what_an_adder_closes_over(make_cluster: MakeCluster) -> None:
    seen: list[bytes] = []

    def note(request: bytes, context: Any) -> bytes:
        seen.append(request)
        return b""

    cluster = make_cluster(ServicerRuntime(ps=adder("Note", note)), ps=1)
    call(cluster.ps[0].channel(), "Note", b"here")
    assert seen == [b"here"]


def test_messages_may_be_large(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(ServicerRuntime(ps=adder("Same", lambda request, _: request)), ps=1)
    assert len(call(cluster.ps[0].channel(), "Same", b"x" * (9 << 20))) == 9 << 20


def test_the_target_is_what_grpc_dials(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(ServicerRuntime(worker=services.add_echo), workers=1)
    (worker,) = cluster.workers
    assert worker.target == worker.address
    with grpc.insecure_channel(worker.target) as channel:
        assert call(channel, "Say", b"1", service=ECHO) == "/job:worker/task:0 1"
    with pytest.raises(UnsupportedError, match=r"(?s)no Session.*call its services: over server"):
        cluster.session()
    with pytest.raises(UnsupportedError, match="ServicerRuntime serves the task at"):
        worker.variables()


def test_beside_native_tasks(make_cluster: MakeCluster) -> None:
    runtime = {"worker": "native", "ps": ServicerRuntime(ps=services.add_echo)}
    cluster = make_cluster(runtime, workers=1, ps=1)
    with device("/job:worker/task:0"):
        total = Variable(1, name="total")
    with cluster.session() as session:
        session.run(total.initializer)
        assert session.run(total.assign_add(1)) == 2
    assert call(cluster.ps[0].channel(), "Say", b"1", service=ECHO) == "/job:ps/task:0 1"


def test_tests_share_a_cluster_of_equal_runtimes(pytester: pytest.Pytester, launcher: str) -> None:
    pytester.makepyfile(
        f"""
        import grpc, pytest
        from pytest_localcluster import ServicerRuntime

        def add(server):
            calls = []
            def count(request, context):
                calls.append(request)
                return str(len(calls)).encode()
            handlers = {{"Count": grpc.unary_unary_rpc_method_handler(count)}}
            server.add_registered_method_handlers("own.Counter", handlers)

        def clustered():
            runtime = ServicerRuntime(ps=add)
            return pytest.mark.cluster(
                workers=0, ps=1, launcher={launcher!r}, runtime=runtime, scope="module"
            )

        seen = []

        def check(cluster):
            seen.append(cluster)
            count = cluster.ps[0].channel().unary_unary("/own.Counter/Count")
            assert [count(b"", timeout=20) for _ in range(2)] == [b"1", b"2"]

        @clustered()
        def test_one(local_cluster):
            check(local_cluster)

        @clustered()
        def test_two(local_cluster):
            check(local_cluster)
            assert seen[0] is seen[1]
        """
    )
    pytester.runpytest_subprocess("-p", "no:asyncio", timeout=60).assert_outcomes(passed=2)
