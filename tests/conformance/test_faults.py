"""kill, suspend, resume, restart: deaths that were asked for, and those that were not."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from pytest_localcluster import LocalCluster, ServerExited, UnsupportedError
from tests.conformance.conftest import PROCESSES, works


@pytest.mark.parametrize("launcher", ["thread"], indirect=True)
class TestThreads:
    @pytest.mark.parametrize("verb", ["kill", "suspend", "resume"])
    def test_signals_are_refused(self, cluster: LocalCluster, verb: str) -> None:
        with pytest.raises(
            UnsupportedError, match=r"(?s)/job:ps/task:0 is a thread.*use launcher='process'"
        ):
            getattr(cluster.ps[0], verb)()
        assert works(cluster.ps[0])


@pytest.mark.parametrize("launcher", PROCESSES, indirect=True)
class TestProcesses:
    def test_after_a_kill_it_is_dead_at_once(self, cluster: LocalCluster) -> None:
        ps = cluster.ps[0]
        pid = ps.pid
        ps.kill()
        assert not ps.is_alive()
        assert ps.exitcode == -signal.SIGKILL
        assert ps.unexpected_death() is None
        assert repr(ps) == f"<Server /job:ps/task:0 at {ps.address}: killed, exit code -9>"
        with pytest.raises(ServerExited, match="was killed by SIGKILL; there is nothing to kill"):
            ps.kill()
        ps.restart()
        assert ps.pid != pid
        assert works(ps)

    @pytest.mark.usefixtures("python")
    def test_other_signals_do_what_they_do(self, cluster: LocalCluster) -> None:
        worker = cluster.workers[0]
        assert (
            worker.run(lambda: signal.signal(signal.SIGUSR1, lambda *_: print("heard"))) is not None
        )
        worker.kill(signal.SIGUSR1)
        assert worker.run(lambda: 1) == 1
        assert worker.is_alive()
        worker.kill(signal.SIGTERM)
        assert worker.join(20) == -signal.SIGTERM
        assert worker.unexpected_death() is None

    def test_a_death_on_its_own_is_reported(self, cluster: LocalCluster) -> None:
        worker = cluster.workers[0]
        os.kill(worker.pid or 0, signal.SIGSEGV)
        assert worker._life.process is not None
        while worker._life.process.exitcode is None:
            os.sched_yield()
        death = worker.unexpected_death()
        assert death is not None
        assert str(death).startswith("/job:worker/task:0 was killed by SIGSEGV on its own\n")
        assert death.exitcode == -signal.SIGSEGV
        cluster.stop()
        assert worker.unexpected_death() is not None, "stop() does not hide it"
        assert worker.join() == -signal.SIGSEGV
        assert worker.unexpected_death() is not None, "join() forgives an exit with 0 alone"
        assert worker.join(check=False) == -signal.SIGSEGV
        assert worker.unexpected_death() is None

    def test_restart_dead_starts_just_those(self, cluster: LocalCluster) -> None:
        pids = [server.pid for server in cluster.servers]
        cluster.workers[1].kill()
        assert cluster.restart_dead() == [cluster.workers[1]]
        now = [server.pid for server in cluster.servers]
        assert [a == b for a, b in zip(pids, now, strict=True)] == [True, False, True]

    @pytest.mark.usefixtures("python")
    def test_a_suspended_task_does_nothing_until_resumed(self, cluster: LocalCluster) -> None:
        worker = cluster.workers[0]
        with worker.suspended() as same:
            assert same is worker
            assert worker.is_alive()
            assert "suspended" in repr(worker)
            future = worker.submit(lambda: "awake")
            with pytest.raises(TimeoutError):
                future.result(0.2)
        assert future.result(20) == "awake"

    def test_a_suspended_task_can_be_killed_stopped_and_restarted(
        self, cluster: LocalCluster
    ) -> None:
        for server in cluster.servers:
            server.suspend()
        cluster.workers[0].kill()
        assert not cluster.workers[0].is_alive()
        cluster.workers[1].restart()
        assert works(cluster.workers[1])
        cluster.ps[0].suspend()
        cluster.stop()
        assert not any(server.is_alive() for server in cluster.servers)

    @pytest.mark.usefixtures("python")
    def test_a_busy_task_is_stopped_in_no_time(self, cluster: LocalCluster) -> None:
        cluster.workers[0].submit(lambda: threading.Event().wait())
        cluster.stop()
        assert cluster.stop_seconds is not None
        assert cluster.stop_seconds < cluster.config.stop_timeout / 2, "nobody had to be waited for"

    @pytest.mark.usefixtures("python")
    def test_a_death_that_nobody_saw_before_the_stop_is_reported(
        self, cluster: LocalCluster
    ) -> None:
        worker = cluster.workers[0]
        worker.submit(lambda: os.kill(os.getpid(), signal.SIGSEGV))
        cluster.stop()
        death = worker.unexpected_death()
        # It may also have been stopped before it came to that.
        assert (death is None) == (worker.exitcode == 0)
        assert worker.join(check=False) in (0, -signal.SIGSEGV)
