"""One task's life: its port, its environment, its death, and that it gives everything back."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil
import pytest

from pytest_localcluster import LocalCluster, PortError, TensorFlowRuntime
from pytest_localcluster._runtimes import Assignment, Serving
from tests.reach import listens

pytestmark = pytest.mark.needs("tensorflow")

MakeCluster = Callable[..., LocalCluster]


class Robbed(TensorFlowRuntime):
    """A stranger takes the port of the first start by its name, just before the server binds it."""

    def serve(self, assignment: Assignment) -> Serving:
        mark = assignment.context.env["MARK"]
        if not os.path.exists(mark):  # noqa: PTH110  # in the task, where less is imported
            open(mark, "x").close()  # noqa: PTH123
            port = int(assignment.context.target.rpartition(":")[2])
            stranger = socket.socket()
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind(("127.0.0.1", port))
            stranger.listen()
            os.environ["KEEP"] = str(stranger.detach())
        return super().serve(assignment)


def test_a_taken_port_is_a_port_error(make_cluster: MakeCluster) -> None:
    (worker,) = make_cluster(workers=1, ps=0).workers

    def serve_again() -> None:
        from pytest_localcluster import current_task

        context = replace(current_task(), env={})
        TensorFlowRuntime().serve(Assignment(context, server_def, "no token"))

    server_def = worker.server_def.SerializeToString()
    with pytest.raises(PortError) as caught:
        worker.run(serve_again)
    assert "/job:worker/task:0 cannot serve: its port is taken" in str(caught.value)
    assert worker.address in str(caught.value)
    assert "Could not start gRPC server" in str(caught.value)


def test_a_cluster_whose_port_was_taken_starts_with_others(
    make_cluster: MakeCluster, tmp_path: Any
) -> None:
    mark = tmp_path / "robbed"
    cluster = make_cluster(Robbed(), workers=1, ps=0, env={"MARK": str(mark)})
    assert mark.exists()
    assert listens(cluster.workers[0].address)


def environment() -> dict[str, str]:
    return dict(os.environ)


@pytest.mark.parametrize(
    ("runtime", "env", "seen"),
    [
        (TensorFlowRuntime(), {}, "-1"),
        (TensorFlowRuntime(gpus=True), {}, "7"),
        (TensorFlowRuntime(), {"CUDA_VISIBLE_DEVICES": "3"}, "3"),
    ],
)
def test_gpus_are_hidden_unless_they_are_asked_for(
    make_cluster: MakeCluster,
    monkeypatch: pytest.MonkeyPatch,
    runtime: TensorFlowRuntime,
    env: dict[str, str],
    seen: str,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    cluster = make_cluster(runtime, workers=1, ps=1, jobs={"chief": 1}, env=env)
    for server in cluster.servers:
        assert server.run(environment)["CUDA_VISIBLE_DEVICES"] == seen


def test_what_makes_starts_fast_is_not_seen_by_programs(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=1, ps=1, env={"TF_GRPC_WORKER_CACHE_QUEUES": "2"})
    for server in cluster.servers:
        found = server.run(environment)
        assert found["TF_GRPC_WORKER_CACHE_QUEUES"] == "2", "the user's own"
        for name in ("TF_GRPC_WORKER_CACHE_THREADS", "GLIBC_TUNABLES", "PYTHONMALLOC"):
            assert found.get(name) == os.environ.get(name)


def test_a_chief_has_no_server_unless_it_is_asked_for(
    tf: Any, v1: Any, make_cluster: MakeCluster
) -> None:
    for runtime, jobs in ((TensorFlowRuntime(), 2), (TensorFlowRuntime(coordinators=()), 3)):
        cluster = make_cluster(runtime, workers=1, ps=1, jobs={"chief": 1})
        assert listens(cluster.jobs["chief"][0].address) == (jobs == 3)
        with v1.Session(cluster.workers[0].target) as session:  # which does not wait for the chief
            assert len(session.list_devices()) == jobs
        cluster.reset()


def test_a_stopped_cluster_leaves_nothing(tf: Any, v1: Any, make_cluster: MakeCluster) -> None:
    make_cluster().stop()
    threads = set(threading.enumerate())
    before, memory = psutil.Process().num_fds(), 0
    for turn in range(12):
        cluster = make_cluster()
        pids = [server.pid or 0 for server in cluster.servers]
        cluster.stop()
        assert not any(map(psutil.pid_exists, pids))
        assert not any(listens(server.address) for server in cluster.servers)
        if turn == 1:
            memory = psutil.Process().memory_info().rss
    assert psutil.Process().num_fds() <= before
    assert set(threading.enumerate()) <= threads
    assert psutil.Process().memory_info().rss - memory < 2 * 2**20


def test_a_segfault_fails_its_test_and_no_other(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import faulthandler
        import pytest
        from pytest_localcluster._clock import Deadline, poll

        pytestmark = pytest.mark.cluster(workers=1, ps=2, runtime="tensorflow", scope="module")

        def crash():
            print("about to crash", flush=True)
            faulthandler._sigsegv()

        def test_one(local_cluster):
            ps = local_cluster.ps[1]
            ps.submit(crash)
            assert poll(lambda: not ps.is_alive(), Deadline(20))

        def test_two(local_cluster):
            import tensorflow as tf
            with tf.Graph().as_default(), tf.device("/job:ps/task:1"):
                with tf.compat.v1.Session(local_cluster.workers[0].target) as session:
                    assert session.run(tf.constant(3) + 4) == 7
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:asyncio")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*/job:ps/task:1 was killed by SIGSEGV on its own*",
            "*about to crash*",
            "FAILED *::test_one*",
        ]
    )


def test_a_ps_that_was_killed_comes_back_empty_at_its_address(
    tf: Any, v1: Any, make_cluster: MakeCluster
) -> None:
    cluster = make_cluster(workers=1, ps=1)
    with tf.device("/job:ps/task:0"):
        v = v1.get_variable("v", initializer=1.0)
    address = cluster.ps[0].address
    with v1.Session(cluster.workers[0].target) as session:
        session.run(v.initializer)
        cluster.ps[0].kill(signal.SIGKILL)
        with pytest.raises((tf.errors.UnavailableError, tf.errors.AbortedError)):
            session.run(v)
    cluster.ps[0].restart()
    assert cluster.ps[0].address == address
    with v1.Session(cluster.workers[0].target) as session:
        with pytest.raises(tf.errors.FailedPreconditionError):
            session.run(v)
        session.run(v.initializer)
        assert session.run(v) == 1


def test_a_suspended_ps_holds_a_step_up(tf: Any, v1: Any, make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=1, ps=1)
    with tf.device("/job:ps/task:0"):
        v = v1.get_variable("v", initializer=1.0)
    with v1.Session(cluster.workers[0].target) as session:
        session.run(v.initializer)
        with cluster.ps[0].suspended(), pytest.raises(tf.errors.DeadlineExceededError):
            session.run(v, options=v1.RunOptions(timeout_in_ms=200))
        with v1.Session(cluster.workers[0].target) as again:
            assert again.run(v) == 1
