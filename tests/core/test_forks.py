"""A forked child of the test process: handles are its parent's, sessions are not."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_localcluster import LocalCluster, Session, Variable, lease_port
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._held import identity

fork = multiprocessing.get_context("fork")


def _answer(function: Callable[[], object], to: Any) -> None:
    try:
        to.send(function())
    except Exception as error:
        to.send((type(error).__name__, str(error)))


def in_fork(function: Callable[[], object], seconds: float = 20.0) -> Any:
    """Return what ``function`` returns in a fork, or the name and the words of its exception."""
    ours, theirs = fork.Pipe()
    child = fork.Process(target=_answer, args=(function, theirs))
    child.start()
    try:
        assert ours.poll(seconds), "it does not answer"
        return ours.recv()
    finally:
        child.kill()
        child.join()
        child.close()
        for end in (ours, theirs):
            end.close()


@pytest.fixture(scope="module", params=["process", "thread"])
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    links = request.param == "process"
    with LocalCluster(workers=2, ps=1, links=links, launcher=request.param) as cluster:
        cluster.workers[0].run(int, "3")  # there is a thread that waits for answers
        yield cluster


SERVER_VERBS: dict[str, Callable[[Any], object]] = {
    "run": lambda server: server.run(int, "3"),
    "submit": lambda server: server.submit(int, "3"),
    "kill": lambda server: server.kill(),
    "suspend": lambda server: server.suspend(),
    "resume": lambda server: server.resume(),
    "stop": lambda server: server.stop(),
    "start": lambda server: server.start(),
    "restart": lambda server: server.restart(),
    "join": lambda server: server.join(0),
    "is_alive": lambda server: server.is_alive(),
    "variables": lambda server: server.variables(),
    "channel": lambda server: server.channel(),
}

CLUSTER_VERBS: dict[str, Callable[[Any], object]] = {
    "run": lambda cluster: cluster.run(int, "3"),
    "reset": lambda cluster: cluster.reset(),
    "restart_dead": lambda cluster: cluster.restart_dead(),
    "start": lambda cluster: cluster.start(),
    "stop": lambda cluster: cluster.stop(),
    "partition": lambda cluster: cluster.partition("worker", "ps"),
    "delay": lambda cluster: cluster.delay("worker", "ps", 1),
    "drop": lambda cluster: cluster.drop("worker", "ps"),
    "heal": lambda cluster: cluster.heal(),
    "chaos": lambda cluster: cluster.chaos(1),
}


@pytest.mark.parametrize("verb", SERVER_VERBS)
def test_what_a_task_is_not_made_to_do(cluster: LocalCluster, verb: str) -> None:
    server = cluster.workers[0]
    kind, text = in_fork(partial(SERVER_VERBS[verb], server))
    assert kind == "UnsupportedError"
    assert text.startswith(
        f"/job:worker/task:0 belongs to process {os.getpid()}, and {verb}() was called in a fork "
    )
    assert "To fix this: do it in the process that forked" in text
    assert server.is_alive()
    assert server.run(int, "4") == 4


@pytest.mark.parametrize("verb", CLUSTER_VERBS)
def test_what_a_cluster_is_not_made_to_do(cluster: LocalCluster, verb: str) -> None:
    kind, text = in_fork(partial(CLUSTER_VERBS[verb], cluster))
    assert kind == "UnsupportedError"
    assert f": running> belongs to process {os.getpid()}, and {verb}() was called in a fork" in text
    assert cluster.run(int, "4") == [4, 4]


def test_what_is_known_can_be_read(cluster: LocalCluster) -> None:
    server = cluster.workers[0]

    def read() -> object:
        return (
            cluster.spec.as_dict(),
            cluster.environ(),
            server.address,
            server.target,
            server.pid,
            server.log.text(),
            repr(server),
            repr(cluster),
        )

    assert in_fork(read) == read()


def test_a_lock_that_another_thread_held(cluster: LocalCluster) -> None:
    with cluster._lock:
        assert in_fork(cluster.workers[0].stop)[0] == "UnsupportedError"


def test_blocks_that_a_fork_leaves() -> None:
    with LocalCluster(workers=2, ps=0, links=True) as cluster, lease_port() as lease:
        first, second = cluster.workers
        pid = -1
        with ExitStack() as leaves:
            leaves.enter_context(cluster)
            leaves.enter_context(lease)
            leaves.enter_context(cluster.partition(first, second))
            leaves.enter_context(second.suspended())
            pid = os.fork()
            if pid == 0:
                try:
                    leaves.close()
                finally:
                    os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            assert second.is_suspended()
            assert len(cluster._net.in_force) == 1
            assert lease.held
            assert first.run(int, "3") == 3


def test_a_lease() -> None:
    with lease_port() as lease:
        kind, text = in_fork(lease.release)
        assert kind == "UnsupportedError"
        assert f"<PortLease localhost:{lease.port}: held> belongs to process" in text


def test_a_fault_is_not_healed() -> None:
    with LocalCluster(links=True) as cluster, cluster.partition("worker", "ps") as fault:
        kind, text = in_fork(fault.heal)
        assert kind == "UnsupportedError"
        assert "<Fault: partition between /job:worker/task:0 and /job:ps/task:0" in text
        assert "in force" in repr(fault)


class TestSessions:
    @pytest.fixture
    def variable(self, cluster: LocalCluster) -> Iterator[tuple[Session, Variable]]:
        with cluster.session() as session:
            variable = Variable(np.arange(3.0))
            session.run(variable.initializer)
            yield session, variable

    def test_the_parents_is_used(
        self, cluster: LocalCluster, variable: tuple[Session, Variable]
    ) -> None:
        if cluster.config.launcher == "thread":
            pytest.skip("it is the parent that serves")
        session, value = variable
        again = session.make_callable(value + 1.0)

        def use() -> object:
            both = session.run(value + 2.0), again()
            session.close()
            del session.__dict__["_remote"]
            return both

        for _ in range(3):
            two, one = in_fork(use)
            assert two.tolist() == [2, 3, 4]
            assert one.tolist() == [1, 2, 3]
            assert session.run(value).tolist() == [0, 1, 2]
            assert session.run(value + 3.0).tolist() == [3, 4, 5]

    def test_a_new_one(self, cluster: LocalCluster) -> None:
        if cluster.config.launcher == "thread":
            pytest.skip("it is the parent that serves")

        def use() -> int:
            with cluster.session() as session, Session(cluster.ps[0].target) as other:
                return len(session.list_devices()) + len(other.list_devices())

        assert in_fork(use) == 6

    def test_one_that_was_closed(self, cluster: LocalCluster) -> None:
        session = cluster.session()
        session.close()
        kind, text = in_fork(session.list_devices)
        assert (kind, text) == ("FailedPreconditionError", "this session is closed")


def test_a_channel(cluster: LocalCluster) -> None:
    channel = cluster.workers[0].channel()
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=20)
    for call in (partial(check, b"", timeout=20), partial(check.future, b"", timeout=20)):
        kind, text = in_fork(call)
        assert kind == "UnsupportedError"
        assert f"<channel to {cluster.workers[0].address}> belongs to process" in text
    assert check(b"", timeout=20)


def test_a_cluster_of_its_own(cluster: LocalCluster) -> None:
    fresh = LocalCluster(workers=1, ps=0)  # made here, started there

    def start() -> object:
        with fresh, LocalCluster(workers=1, ps=0) as other, other.session() as session:
            session.list_devices()
            return fresh.run(int, "3") + other.run(int, "4")

    assert in_fork(start) == [3, 4]
    assert cluster.run(int, "5") == [5, 5]


def test_a_cluster_that_a_fork_does_not_stop() -> None:
    def start() -> object:
        cluster = LocalCluster(workers=1, ps=0).start()
        pid = cluster.workers[0].pid
        assert pid is not None
        return pid, identity(pid), str(cluster.workers[0].log.path)

    pid, born, log = in_fork(start)
    assert poll(lambda: identity(pid) != born and not Path(log).exists(), Deadline(20))


ENDS = {
    "os._exit": "os._exit(0)",
    "an exit function": "atexit._run_exitfuncs(); os._exit(0)",
    "sys.exit": "sys.exit(0)",
    "an exception": "raise LookupError",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("launcher", ["process", "thread"])
def test_however_a_fork_ends(pytester: pytest.Pytester, end: str, launcher: str) -> None:
    """Some are a second pytest from there on, which goes through the same fixtures' ends."""
    pytester.makepyfile(
        f"""
        import atexit, os, sys
        import pytest

        @pytest.mark.cluster(launcher={launcher!r})
        def test_it(local_cluster, session_cluster, lease_port, tmp_path):
            session = local_cluster.session()
            session.list_devices()
            port, log = lease_port(), local_cluster.workers[0].log.path
            pid = os.fork()
            if pid == 0:
                null = os.open(os.devnull, os.O_RDWR)
                for fd in (1, 2):
                    os.dup2(null, fd)
                {ENDS[end]}
            os.waitpid(pid, 0)
            assert len(session.list_devices()) == 2
            for cluster in (local_cluster, session_cluster):
                assert cluster.run(int, "3") == [3]
            assert log.exists()
            local_cluster.reset()

        def test_next(session_cluster):
            assert session_cluster.run(int, "3") == [3]
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "-p", "no:xdist", timeout=60)
    result.assert_outcomes(passed=2)
    result.stderr.no_fnmatch_line("*")


HOW_PYTEST_ENDS = {"passes": "pass", "is killed": "os.kill(os.getpid(), 9)"}


@pytest.mark.parametrize("end", HOW_PYTEST_ENDS)
def test_a_fork_that_outlives_pytest(pytester: pytest.Pytester, end: str) -> None:
    """It has the sockets and pipes of all tasks open, and they end nevertheless."""
    pytester.makepyfile(
        f"""
        import os, signal
        import pytest
        from pytest_localcluster._held import identity

        @pytest.mark.cluster(workers=1, ps=0)
        def test_it(local_cluster):
            server = local_cluster.workers[0]
            server.run(int, "3")
            pid = os.fork()
            if pid == 0:
                null = os.open(os.devnull, os.O_RDWR)
                for fd in (0, 1, 2):
                    os.dup2(null, fd)
                signal.pause()
            with open("told", "w") as told:
                print(pid, server.pid, identity(server.pid), server.log.path, file=told)
            {HOW_PYTEST_ENDS[end]}
        """
    )
    pytester.runpytest_subprocess("-p", "no:asyncio", "-p", "no:xdist", timeout=60)
    fork, task, born, log = (pytester.path / "told").read_text().split()
    try:
        assert identity(int(fork))
        assert poll(lambda: identity(int(task)) != born and not Path(log).exists(), Deadline(20)), (
            "something of the cluster has outlived pytest"
        )
    finally:
        os.kill(int(fork), 9)
