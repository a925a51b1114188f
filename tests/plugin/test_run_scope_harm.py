"""``scope="run"`` when something goes wrong: deaths of tasks, and of who has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_localcluster import _rendezvous
from tests.plugin.conftest import Run
from tests.plugin.sharing import conftest, living, tasks

pytestmark = pytest.mark.skipif(not _rendezvous.AVAILABLE, reason="no abstract sockets here")

__all__ = ["conftest"]  # a fixture


@pytest.mark.parametrize("cluster", ["local_cluster", "pair"])
def test_a_task_that_died_is_restarted_for_the_next_test(
    pytester: pytest.Pytester, run: Run, cluster: str
) -> None:
    pytester.makepyfile(
        f"""
        from conftest import *

        pair = cluster_fixture(scope="run", workers=2)
        pytestmark = pytest.mark.cluster(workers=2, scope="run")
        before = []

        def test_is_told({cluster}):
            before[:] = seen({cluster})
            ps, = {cluster}.ps
            os.kill(ps.pid, signal.SIGSEGV)
            assert ps.join(60) == -signal.SIGSEGV
            with pytest.raises(ServerExited, match="SIGSEGV"):
                ps.run(os.getpid)

        def test_next({cluster}):
            *others, ps = seen({cluster})
            assert others == before[:2]
            assert ps != before[2]
            assert {cluster}.ps[0].run(os.getpid) == ps
            with {cluster}.session() as session:
                assert session.run(function(int)()) == 0
            assert 0, "to see the report"

        def test_one_more({cluster}):
            assert {cluster}.ps[0].run(os.getpid) == {cluster}.ps[0].pid
            assert 0, "to see the report"

        def test_is_not_told({cluster}):
            os.kill({cluster}.ps[0].pid, signal.SIGSEGV)
            wait_for(lambda: not {cluster}.ps[0].is_alive())
        """
    )
    result = run("-n", "1")
    result.assert_outcomes(passed=1, failed=3)
    text = result.stdout.str()
    # In the report of the next test, not in that of the one after it.
    assert text.count("these tasks were restarted for this test:") == 1
    told = r"/job:ps/task:0 was killed by SIGSEGV on its own\n  at localhost:\d+, pid \d+"
    assert len(re.findall(told, text)) == 2
    assert not living(pytester)


def test_a_death_fails_the_tests_of_all_workers_that_use_the_cluster_then(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        """
        from conftest import *

        pytestmark = pytest.mark.cluster(scope="run")

        def reach(point):
            Path(point).touch()

        def test_kills(local_cluster):
            reach("both")
            wait_for(Path("other").exists)
            os.kill(local_cluster.ps[0].pid, signal.SIGKILL)
            wait_for(lambda: not local_cluster.ps[0].is_alive())
            reach("dead")
            wait_for(Path("told").exists)

        def test_other(local_cluster):
            reach("other")
            wait_for(Path("both").exists)
            wait_for(Path("dead").exists)
            reach("told")
        """
    )
    result = run("-n", "2")
    result.assert_outcomes(failed=2)
    assert result.stdout.str().count("\n/job:ps/task:0 was killed by SIGKILL on its own\n") == 2


def test_the_steward_is_killed(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        from conftest import *

        own = cluster_fixture(scope="run")
        pytestmark = pytest.mark.cluster(scope="run")

        def test_it(local_cluster, own):
            seen(local_cluster), seen(own)
            with local_cluster.session() as session:
                session.run(function(int)())
            os.kill(local_cluster._steward.pid, signal.SIGKILL)
            for server in (*local_cluster.servers, *own.servers):
                wait_for(lambda: not server.is_alive())
            with pytest.raises(ServerExited, match="ended with the steward of this run"):
                local_cluster.workers[0].run(os.getpid)

        def test_next(local_cluster, own):
            seen(local_cluster), seen(own)
            assert local_cluster.ps[0].run(os.getpid) != own.ps[0].run(os.getpid)
            with own.session() as session:
                assert session.run(function(int)()) == 0
            assert 0, "to see the report"

        def test_one_more(local_cluster, own):
            seen(local_cluster), seen(own)
        """
    )
    result = run("-n", "1")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        ["*these tasks were restarted for this test:*", "*ended with the steward of this run*"]
    )
    assert len(tasks(pytester)) == 4
    assert not living(pytester)


def test_without_xdist_it_is_of_the_session_and_not_reset(
    pytester: pytest.Pytester, run: Run, tmp_path: Path
) -> None:
    pytester.makepyfile(
        """
        from conftest import *

        own = cluster_fixture(scope="run")
        pytestmark = pytest.mark.cluster(scope="run")
        first = []

        def test_it(local_cluster, own):
            assert local_cluster is not own
            first.append(local_cluster)
            with local_cluster.session() as session, device("/job:ps/task:0"):
                session.run(Variable(1.0, name="v").initializer)

        @pytest.mark.cluster(scope="session")
        def test_that_of_a_session_is_another_one(local_cluster):
            assert local_cluster is not first[0]

        def test_it_is_not_reset(local_cluster):
            assert local_cluster is first[0]
            assert local_cluster.ps[0].variables() == {"v": 1.0}
            local_cluster.ps[0].kill()

        def test_what_is_dead_is_restarted(local_cluster):
            assert local_cluster is first[0]
            assert local_cluster.ps[0].variables() == {}
            local_cluster.stop()

        def test_what_was_stopped_is_replaced(local_cluster):
            assert local_cluster.run(os.getpid)
            assert 0, "to see the report"
        """
    )
    result = run("-n", "0", f"--cluster-log-dir={tmp_path}")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*was replaced: a test stopped it*"])
    names = {path.name for path in tmp_path.iterdir() if "run" in path.name}
    assert names == {"run-local_cluster", "run-local_cluster-2", "run-own"}
