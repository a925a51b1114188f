"""``scope="run"`` when no cluster comes up, and where there can be none."""

from __future__ import annotations

import pytest

from pytest_localcluster import _rendezvous
from tests.plugin.conftest import Run
from tests.plugin.sharing import conftest, living, tasks

pytestmark = pytest.mark.skipif(not _rendezvous.AVAILABLE, reason="no abstract sockets here")

__all__ = ["conftest"]  # a fixture


def test_errors_of_a_start_reach_each_test(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        from conftest import *

        class Own(Exception):
            pass

        def add(server, task):
            if task.task.job == "ps":
                print("about to fail")
                raise Own("no such table")

        broken = cluster_fixture(scope="run", runtime=ServicerRuntime(worker=add, ps=add))

        @pytest.mark.parametrize("n", range(2))
        def test_it(request, n):
            with pytest.raises(StartError, match="did not start: Own: no such table") as caught:
                request.getfixturevalue("broken")
            assert type(caught.value) is StartError
            assert (caught.value.task, caught.value.pid is None) == ("/job:ps/task:0", False)
            assert "| about to fail" in str(caught.value)
            cause = caught.value.__cause__
            assert isinstance(cause, Own) and cause.args == ("no such table",)
            assert "in add" in str(cause.__cause__)

        @pytest.mark.cluster(scope="run", start_timeout=0.2,
                             workers=0, runtime=CommandRuntime(ps=["sleep", "100"], ready="tcp"))
        def test_late(request):
            with pytest.raises(StartTimeout, match="was not ready after 0.2 s"):
                request.getfixturevalue("local_cluster")
        """
    )
    run("-n", "2").assert_outcomes(passed=3)


def test_what_cannot_be_sent(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import threading
        from conftest import *

        lock = threading.Lock()

        @pytest.mark.cluster(scope="run", env=lambda task, lock=lock: {"A": str(lock)})
        def test_it(local_cluster):
            pass
        """
    )
    result = run("-n", "1")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "E *no cluster of scope 'run' can be had: TypeError: cannot pickle*",
            "E *To fix this: the config goes to another process, pickled*",
        ]
    )


def test_where_there_are_no_abstract_sockets(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        from conftest import *
        from pytest_localcluster import _rendezvous

        _rendezvous.AVAILABLE = False

        @pytest.mark.cluster(scope="run")
        def test_it(local_cluster):
            assert local_cluster.run(os.getpid)
        """
    )
    run("-n", "0").assert_outcomes(passed=1)
    result = run("-n", "1")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *UnsupportedError: workers of pytest-xdist can share*"])


def test_a_steward_that_does_not_start(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        from conftest import *
        from pytest_localcluster._launch import boot

        boot.CODE = "raise SystemExit('not today')"

        @pytest.mark.cluster(scope="run")
        def test_it(local_cluster):
            pass
        """
    )
    result = run("-n", "1")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["E *StartError: the steward*did not start", "E *exit code 1", "E *| not today"]
    )


def test_the_steward_does_not_answer(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        from conftest import *
        from pytest_localcluster import _results

        @pytest.mark.cluster(scope="run")
        def test_it(local_cluster):
            link._PATIENCE = _results._LOOK = 0.3
            local_cluster._start_deadline = lambda: Deadline(0.1)
            steward = local_cluster._steward.pid
            os.kill(steward, signal.SIGSTOP)
            try:
                with pytest.raises(TimeoutError, match="is suspended"):
                    local_cluster.run(os.getpid)
                with pytest.raises(StartTimeout, match="has not told of a cluster after 0.5 s"):
                    local_cluster.restart_dead()
            finally:
                os.kill(steward, signal.SIGCONT)
            assert local_cluster.run(os.getpid) == [local_cluster.workers[0].pid]
        """
    )
    run("-n", "1").assert_outcomes(passed=1)


def test_no_steward_lives_long_enough(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        from conftest import *

        def end(task):
            os._exit(3)  # in the steward, which has a task's environment asked for

        @pytest.mark.cluster(scope="run", env=end)
        def test_it(local_cluster):
            pass
        """
    )
    result = run("-n", "1")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *StartError: 3 stewards, which were to start a cluster, have*"])


def test_who_asked_for_it_is_killed_while_it_starts(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import threading
        from conftest import *

        def env(task):
            Path("starting").touch()
            wait_for(Path("killed").exists)
            return {"WHO": str(task)}

        def die():
            wait_for(Path("starting").exists)
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

        @pytest.fixture
        def first():
            if once():
                threading.Thread(target=die).start()
            else:
                wait_for(Path("starting").exists)

        @pytest.mark.cluster(scope="run", env=env)
        @pytest.mark.parametrize("n", range(6))
        def test_it(first, local_cluster, n):
            seen(local_cluster)
            assert local_cluster.ps[0].run(os.getenv, "WHO") == "/job:ps/task:0"
        """
    )
    result = run("-n", "2")
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["*worker 'gw?' crashed while running*"])
    assert len(tasks(pytester)) == 1
    assert not living(pytester)
