"""Nothing waits for ever: a deadline, and a clear error, for whoever waits for a task."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pytest_localcluster import (
    ClusterError,
    LocalCluster,
    ServerExited,
    Variable,
    _channel,
    _results,
    device,
    errors,
)
from pytest_localcluster._client import session as client_session
from pytest_localcluster._clock import Deadline, poll

# A wait that does not end is ended by the time that each test has (pyproject.toml).


def hold_the_interpreters_lock() -> None:
    re.match("(a+)+$", "a" * 64 + "b")  # takes longer than anybody lives, and lets nobody else run


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=1, ps=1, start_timeout=20) as cluster:
        yield cluster


@pytest.fixture
def hung(cluster: LocalCluster) -> LocalCluster:
    """A cluster whose worker holds the interpreter's lock: its server answers, no Python does."""
    cluster.workers[0].submit(hold_the_interpreters_lock)
    assert poll(lambda: "in hold_the_interpreters_lock" in _stacks(cluster), Deadline(20))
    return cluster


def _stacks(cluster: LocalCluster) -> str:
    from pytest_localcluster._stacks import task_stacks

    return "\n".join(text for _, text in task_stacks(cluster.workers))


class TestHungTask:
    def test_reset(self, hung: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        # A busy task is restarted; this one is not known to be busy any more.
        monkeypatch.setattr(hung, "_start_deadline", lambda: Deadline(1.0))
        life = hung.workers[0]._life
        assert life.process is not None
        life.process._calls._pending.clear()  # type: ignore[attr-defined]
        with pytest.raises(ClusterError, match="did not answer within 1.0 s") as caught:
            hung.reset()
        assert caught.value.task == "/job:worker/task:0"
        assert "restart() it" in str(caught.value)

    def test_restart_and_what_the_others_are_told(
        self, hung: LocalCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pid = hung.workers[0].pid
        hung.workers[0].restart()
        assert hung.workers[0].run(os.getpid) != pid
        hung.workers[0].submit(hold_the_interpreters_lock)
        monkeypatch.setattr(hung, "_start_deadline", _first_long_then_short())
        with pytest.raises(ClusterError, match="/job:worker/task:0 did not answer within 1.0 s"):
            hung.ps[0].restart()  # the worker is to forget what it knew of it

    def test_stop(self, hung: LocalCluster) -> None:
        hung.stop()
        assert not any(server.is_alive() for server in hung.servers)
        assert hung.stop_seconds is not None
        assert hung.stop_seconds < 60

    def test_requests_that_do_not_fit(self, hung: LocalCluster) -> None:
        much = np.zeros(1 << 20)
        with pytest.raises(TimeoutError, match="has not finished after 0.5 s"):
            hung.workers[0].run(len, much, timeout=0.5)
        more = [hung.workers[0].submit(len, much) for _ in range(3)]
        hung.stop()
        for future in more:
            with pytest.raises(ServerExited):
                future.result(0)


def _first_long_then_short() -> object:
    deadlines = iter([20.0, *[1.0] * 10])
    return lambda: Deadline(next(deadlines))


class TestSuspendedTask:
    def test_requests_that_do_not_fit_arrive_later(self, cluster: LocalCluster) -> None:
        worker = cluster.workers[0]
        with worker.suspended():
            sums = [worker.submit(np.sum, np.full(1 << 18, n)) for n in range(4)]
            with pytest.raises(TimeoutError):
                sums[0].result(0.2)
        assert [future.result(20) for future in sums] == [n << 18 for n in range(4)]

    @pytest.mark.parametrize("how", ["suspend", "from outside"])
    def test_run_without_a_timeout(
        self, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        monkeypatch.setattr(_results, "_LOOK", 0.5)
        worker = cluster.workers[0]
        if how == "suspend":
            worker.suspend()
        elif not sys.platform.startswith("linux"):
            pytest.skip("what others do to a task shows in /proc")
        else:
            os.kill(worker.pid or 0, signal.SIGSTOP)
        with pytest.raises(TimeoutError, match=r"/job:worker/task:0 .* is suspended.*resume"):
            worker.run(lambda: 1)
        with pytest.raises(TimeoutError, match="is suspended"):
            cluster.run(lambda: 1)
        os.kill(worker.pid or 0, signal.SIGCONT)

    def test_run_without_a_timeout_waits_for_who_is_busy(
        self, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_results, "_LOOK", 0.05)

        def work(seconds: float) -> str:
            threading.Event().wait(seconds)
            return "done"

        assert cluster.workers[0].run(work, 0.5) == "done"

    def test_signals_suspend_as_suspend_does(self, cluster: LocalCluster) -> None:
        worker = cluster.workers[0]
        worker.kill(signal.SIGSTOP)
        assert "suspended" in repr(worker)
        assert worker.is_suspended()
        worker.kill(signal.SIGCONT)
        assert "running" in repr(worker)
        assert worker.run(lambda: 1, timeout=20) == 1
        worker.kill(signal.SIGSTOP)
        cluster.stop()  # which kills it, instead of waiting for an answer
        assert worker.exitcode == -signal.SIGKILL

    def test_reset_restarts_it(self, cluster: LocalCluster) -> None:
        worker = cluster.workers[0]
        pid = worker.pid
        worker.kill(signal.SIGSTOP)
        cluster.reset()
        assert worker.pid != pid
        assert worker.run(lambda: 1, timeout=20) == 1


SHORT = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.ping_timeout_ms", 2000),
)


class TestSteps:
    @pytest.fixture
    def impatient(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """Have channels see within seconds that nobody is there, in tasks as well."""
        monkeypatch.setattr(_channel, "KEEPALIVE", SHORT)
        code = f"from pytest_localcluster import _channel\n_channel.KEEPALIVE = {SHORT!r}\n"
        tmp_path.joinpath("impatience.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        return "impatience"

    @pytest.mark.parametrize("job", ["worker", "ps"])
    def test_a_step_without_a_timeout(self, impatient: str, job: str) -> None:
        with device("/job:ps/task:0"):
            there = Variable(np.zeros(3), name="there")
        with LocalCluster(preload=[impatient]) as cluster, cluster.session() as session:
            session.run(there.initializer)
            with cluster.jobs[job][0].suspended(), pytest.raises(errors.UnavailableError):
                session.run(there.read())
            deadline = Deadline(30)
            assert poll(lambda: _works(session, there), deadline), "it works again"

    def test_a_busy_task_is_never_taken_for_dead(self, impatient: str) -> None:
        from pytest_localcluster import function

        def hold(_: object) -> float:
            ctypes.PyDLL(None).usleep(5_000_000)  # five times as long as between pings
            return 7.0

        with LocalCluster(preload=[impatient]) as cluster, cluster.session() as session:
            with device("/job:ps/task:0"):
                held = function(hold)(np.zeros(1))
            assert session.run(held) == 7.0

    def test_the_defaults_end_within_a_minute(self) -> None:
        options = dict(_channel.KEEPALIVE)
        ends = options["grpc.keepalive_time_ms"] + options["grpc.http2.ping_timeout_ms"]
        assert ends <= 60_000

    def test_reset_of_a_session(
        self, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client_session, "_RESET", 1.0)
        target = cluster.workers[0].target
        late = pytest.raises(errors.DeadlineExceededError, match="a reset was not done")
        with cluster.workers[0].suspended(), late:
            client_session.Session.reset(target)


def _works(session: client_session.Session, variable: Variable) -> bool:
    try:
        return bool(session.run(variable.read(), timeout=5).shape == (3,))
    except errors.OpError:
        return False
