"""What tasks with the user's own services serve and ask for beside these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from pytest_localcluster import LocalCluster, ServicerRuntime
from tests.servicers import services
from tests.servicers.services import ECHO, adder, call, check

MakeCluster = Callable[..., LocalCluster]


class TestHealth:
    def test_it_is_served_for_all_and_for_each_service(self, make_cluster: MakeCluster) -> None:
        adders = [services.add_echo, adder("A", lambda request, context: b"")]
        (ps,) = make_cluster(ServicerRuntime(ps=adders), ps=1).ps
        assert [check(ps, name) for name in ("", ECHO, "tests.Own")] == ["SERVING"] * 3
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            check(ps, "tests.Other")

    def test_it_can_be_left_out(self, make_cluster: MakeCluster) -> None:
        (ps,) = make_cluster(ServicerRuntime(ps=services.add_echo, health=False), ps=1).ps
        assert call(ps.channel(), "Say", b"1", service=ECHO) == "/job:ps/task:0 1"
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            check(ps)

    def test_it_answers_however_busy_the_task_is(self, make_cluster: MakeCluster) -> None:
        def add(server: grpc.Server) -> None:
            import threading

            begun, end = threading.Semaphore(0), threading.Event()

            def wait(request: bytes, context: Any) -> bytes:
                begun.release()
                return str(end.wait(60)).encode()

            def let_go(request: bytes, context: Any) -> bytes:
                for _ in range(100):
                    assert begun.acquire(timeout=20)
                end.set()
                return b""

            adder("Wait", wait, "tests.Wait")(server)
            adder("LetGo", let_go)(server)

        (ps,) = make_cluster(ServicerRuntime(ps=add), ps=1).ps
        channel = ps.channel()
        calls = [channel.unary_unary("/tests.Wait/Wait").future(b"") for _ in range(100)]
        assert check(ps) == "SERVING"
        call(channel, "LetGo")
        assert {each.result(timeout=20) for each in calls} == {b"True"}


class TestToken:
    def test_it_is_asked_for(self, make_cluster: MakeCluster) -> None:
        (ps,) = make_cluster(ServicerRuntime(ps=services.add_echo, token=True), ps=1).ps
        assert call(ps.channel(), "Say", b"1", service=ECHO) == "/job:ps/task:0 1"
        assert check(ps) == "SERVING"
        with grpc.insecure_channel(ps.target) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                call(channel, "Say", service=ECHO)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert caught.value.details() == (
                f"the task at {ps.address} was called without its cluster's token\n"
                "  To fix this: open the channel with server.channel(), or send the metadata "
                "localcluster-token with what PYTEST_LOCALCLUSTER_TOKEN is in the environment "
                "that cluster.environ() gives, and every task"
            )
            with pytest.raises(grpc.RpcError, match="another token than this call's"):
                call(channel, "Say", service=ECHO, metadata=[("localcluster-token", "guess")])

    def test_tasks_know_it(self, make_cluster: MakeCluster) -> None:
        def add(server: grpc.Server, task: Any) -> None:
            def ask(request: bytes, context: Any) -> bytes:
                token = task.env["PYTEST_LOCALCLUSTER_TOKEN"]
                with grpc.insecure_channel(task.cluster_spec.task_address("ps", 0)) as channel:
                    return call(
                        channel, "Say", service=ECHO, metadata=[("localcluster-token", token)]
                    ).encode()

            adder("Ask", ask)(server)

        runtime = ServicerRuntime(worker=add, ps=services.add_echo, token=True)
        cluster = make_cluster(runtime, workers=1, ps=1)
        assert call(cluster.workers[0].channel(), "Ask") == "/job:ps/task:0 "

    def test_nobody_asks_for_it_otherwise(self, make_cluster: MakeCluster) -> None:
        (ps,) = make_cluster(ServicerRuntime(ps=services.add_echo), ps=1).ps
        with grpc.insecure_channel(ps.target) as channel:
            assert call(channel, "Say", b"1", service=ECHO) == "/job:ps/task:0 1"
