"""What nasty tests do to a cluster, on purpose or not."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from pytest_localcluster import LocalCluster, ServerExited, SpecError, UnsupportedError, function
from tests.conformance.conftest import PROCESSES, MakeCluster

pytestmark = pytest.mark.usefixtures("python")


def run_script(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("draw", [np.random.rand, random.random, np.random.permutation])
def test_functions_of_the_global_generators_draw_in_the_task(
    make_cluster: MakeCluster, runtime: str, draw: object
) -> None:
    cluster = make_cluster(workers=3, ps=0)
    args = (1000,) if draw is np.random.permutation else ()
    draws = [*cluster.run(draw, *args), *cluster.run(draw, *args), draw(*args)]  # type: ignore[call-overload, operator]
    assert len({str(value) for value in draws}) == 7
    if runtime == "native":
        with cluster.session() as session:
            op = function(draw)(*args)  # type: ignore[call-overload]
            assert str(session.run(op)) != str(session.run(op))


def test_outcomes_of_pytest_come_back_as_such(cluster: LocalCluster) -> None:
    def skip() -> None:
        pytest.skip("not here")

    with pytest.raises(pytest.skip.Exception, match="not here"):
        cluster.ps[0].run(skip)
    with pytest.raises(pytest.fail.Exception, match="broken"):
        cluster.ps[0].run(pytest.fail, "broken")


def test_log_files_that_somebody_deleted(cluster: LocalCluster) -> None:
    ps = cluster.ps[0]
    shutil.rmtree(ps.log.path.parent)
    assert (ps.log.text(), ps.log.tail(), ps.log.mark()) == ("", "", 0)
    assert ps.run(lambda: 1) == 1
    cluster.stop()


@pytest.mark.parametrize("timeout", [-1, "a", True])
def test_a_timeout_that_is_none(cluster: LocalCluster, timeout: float) -> None:
    with pytest.raises(SpecError, match=f"timeout={timeout!r} is no time to wait"):
        cluster.ps[0].run(print, timeout=timeout)


def test_restarts_from_several_threads_come_one_after_the_other(cluster: LocalCluster) -> None:
    ps, failures = cluster.ps[0], []

    def restart() -> None:
        try:
            ps.restart()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=restart) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert ps.run(lambda: 1) == 1


@pytest.mark.parametrize("launcher", PROCESSES, indirect=True)
class TestProcesses:
    @pytest.mark.parametrize("bad", [999, -5, True, "SIGKILL", None])
    def test_a_signal_that_is_none(
        self, cluster: LocalCluster, make_cluster: MakeCluster, bad: int
    ) -> None:
        other = make_cluster(workers=1, ps=0)
        with pytest.raises(SpecError, match=rf"{bad!r} is no signal\n.*use signal.SIGTERM"):
            cluster.ps[0].kill(bad)
        assert other.run(lambda: 1) == [1]

    def test_a_function_that_forks(self, cluster: LocalCluster) -> None:
        def fork() -> str:
            pid = os.fork()
            if pid == 0:
                return "child"
            os.waitpid(pid, 0)
            return "parent"

        worker = cluster.workers[0]
        assert worker.run(fork) == "parent"
        assert worker.run(os.getpid) == worker.pid

    def test_a_result_that_cannot_be_sent_back(self, cluster: LocalCluster) -> None:
        with pytest.raises(TypeError, match="cannot pickle") as caught:
            cluster.ps[0].run(threading.Lock)
        (note,) = caught.value.__notes__
        assert note.endswith("returned 'lock', which goes back pickled")

    def test_an_interrupt_ends_the_task_and_leaves_its_traceback(
        self, cluster: LocalCluster
    ) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        with pytest.raises(ServerExited, match="exited with status 1") as caught:
            cluster.ps[0].run(interrupt)
        assert "raise KeyboardInterrupt" in str(caught.value)

    def test_an_own_death_outlives_a_restart(self, cluster: LocalCluster) -> None:
        worker = cluster.workers[0]
        future = worker.submit(os._exit, 9)
        while not future.done():
            os.sched_yield()
        worker.restart()
        death = worker.unexpected_death()
        assert death is not None
        assert death.exitcode == 9
        with pytest.raises(ServerExited):
            future.result()
        assert worker.unexpected_death() is None

    def test_a_signal_that_was_handled_excuses_no_later_death(self, cluster: LocalCluster) -> None:
        worker = cluster.workers[0]
        worker.run(lambda: signal.signal(signal.SIGUSR1, lambda *_: None) and None)
        worker.kill(signal.SIGUSR1)
        future = worker.submit(os._exit, 9)
        while not future.done():
            os.sched_yield()
        assert worker.unexpected_death() is not None
        assert worker.join(check=False) == 9

    def test_a_program_may_end_in_its_own_way_when_asked_to(self, cluster: LocalCluster) -> None:
        worker = cluster.workers[0]
        worker.run(lambda: signal.signal(signal.SIGTERM, lambda *_: os._exit(3)) and None)
        worker.kill(signal.SIGTERM)
        assert worker._life.process is not None
        while worker._life.process.exitcode is None:
            os.sched_yield()
        assert worker.exitcode == 3
        assert worker.unexpected_death() is None

    def test_the_evidence_is_of_this_life(self, cluster: LocalCluster) -> None:
        worker = cluster.workers[0]
        worker.run(print, "first life says boom")
        worker.restart()
        with pytest.raises(ServerExited) as caught:
            worker.run(os._exit, 3)
        assert "boom" not in str(caught.value)
        assert "boom" in worker.log.text()

    def test_a_fork_of_the_test_process_leaves_the_cluster_alone(
        self, cluster: LocalCluster
    ) -> None:
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():  # for this test, or one before it
            pytest.skip("Ray itself does not bear that its process is forked")
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                with pytest.raises(UnsupportedError, match="in a fork"):
                    cluster.stop()
                with pytest.raises(UnsupportedError, match="in a fork"):
                    cluster.servers[0].run(int, "3")
                atexit._run_exitfuncs()
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert cluster.run(lambda: 1) == [1, 1]


@pytest.mark.parametrize("launcher", ["process"], indirect=True)
def test_a_script_that_stops_nothing_ends_well(launcher: str, tmp_path: Path) -> None:
    told = tmp_path / "told"
    done = run_script(
        "from pytest_localcluster import LocalCluster\n"
        # However busy the machine is: a task that is late is killed, and says nothing.
        "cluster = LocalCluster(workers=1, ps=0, stop_timeout=60).start()\n"
        "def later():\n"
        "    import atexit, pathlib\n"
        f"    atexit.register(pathlib.Path({str(told)!r}).write_text, 'goodbye')\n"
        "cluster.workers[0].run(later)\n"
        "print(cluster.servers[0].log.path.parent)\n"
    )
    assert done.stderr == ""
    assert not Path(done.stdout.strip()).exists()
    assert told.read_text() == "goodbye", "tasks are asked to end, not killed"


@pytest.mark.parametrize("launcher", PROCESSES, indirect=True)
def test_a_task_that_is_stopped_while_it_hands_in_a_result_says_goodbye(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    cluster = make_cluster(workers=1, ps=0)

    def lag() -> None:
        """Have the main thread stay, after its answers, until the task was asked to end."""
        from pytest_localcluster._clock import Deadline, poll
        from pytest_localcluster._launch.child import Child

        tell = Child.tell

        def tell_and_lag(child: Child, *message: object) -> None:
            tell(child, *message)
            poll(lambda: child.stopping, Deadline(10))

        Child.tell = tell_and_lag  # type: ignore[assignment, method-assign]
        atexit.register((tmp_path / "told").write_text, "goodbye")

    cluster.workers[0].run(lag)
    cluster.stop()
    assert (tmp_path / "told").read_text() == "goodbye"
