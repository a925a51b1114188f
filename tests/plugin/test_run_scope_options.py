"""``scope="run"`` and the rest of the plugin: reports, logs, hangs, leaks, kept and attached."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pytest_localcluster import LocalCluster, _rendezvous
from tests.plugin.conftest import Run
from tests.plugin.sharing import conftest, living

pytestmark = pytest.mark.skipif(not _rendezvous.AVAILABLE, reason="no abstract sockets here")

__all__ = ["conftest"]  # a fixture

RED = """
from conftest import *

pytestmark = pytest.mark.cluster(scope="run")

@pytest.mark.parametrize("n", range(4))
def test_it(local_cluster, n):
    seen(local_cluster)
    local_cluster.workers[0].run(print, f"in test {n}")
    assert n != 3
"""


def test_a_red_test_shows_what_was_printed_meanwhile(
    pytester: pytest.Pytester, run: Run, tmp_path: Path
) -> None:
    pytester.makepyfile(RED)
    logs = tmp_path / "logs"
    result = run("-n", "2", f"--cluster-log-dir={logs}")
    result.assert_outcomes(passed=3, failed=1)
    log = logs / "run-local_cluster" / "worker-0.log"
    result.stdout.fnmatch_lines(
        [
            "*Captured log /job:worker/task:0 call*",
            "<Server /job:worker/task:0 at *: running, pid *>",
            f"the whole log: {log}",
            "in test 3",
        ]
    )
    assert {path.name for path in logs.iterdir()} == {"run-local_cluster"}
    assert sorted(log.read_text().splitlines()) == [f"in test {n}" for n in range(4)]
    assert not living(pytester)


def test_its_logs_go_with_it(pytester: pytest.Pytester, run: Run, tmp_path: Path) -> None:
    pytester.makepyfile(RED)
    pytester._monkeypatch.setenv("TMPDIR", str(tmp_path))
    result = run("-n", "2")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*Captured log /job:worker/task:0 call*", "in test 3"])
    assert list(tmp_path.glob("pytest-localcluster*")) == []


def test_a_hang_shows_where_its_tasks_are(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        from conftest import *

        @pytest.mark.cluster(scope="run")
        def test_it(local_cluster):
            def wait_here():
                import threading
                threading.Event().wait(3)
            local_cluster.workers[0].run(wait_here)
            assert 0, "to see the report"
        """
    )
    result = run("-n", "1", "--cluster-hang-dump=1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*Captured log of a hang call*",
            "--- <Server /job:worker/task:0 at *: running, pid *>",
            "*in wait_here",
            "--- <Server /job:ps/task:0 at *: running, pid *>",
            "*Current thread*",
            "--- the test process, pid *",
        ]
    )


def test_nothing_of_it_is_taken_for_a_leak(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        from conftest import *

        @pytest.mark.cluster(scope="run")
        @pytest.mark.parametrize("n", range(2))
        def test_it(local_cluster, n):
            local_cluster.run(int)
            local_cluster.session()

        def test_what_is_left_of_another_one_is(cluster_factory):
            LocalCluster().start()
        """
    )
    result = run("-n", "1")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*something of a cluster stayed behind*", "*LocalCluster of*"])


def test_it_is_not_kept(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(RED)
    result = run("-n", "2", "--cluster-keep=failed")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "<RunCluster of 1 worker, 1 ps: running> is not kept: it is of a fixture or marker *",
            "  To fix this: run this test with a scope of 'function'",
        ]
    )
    assert not living(pytester)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_with_a_cluster_to_attach_to_it_is_that(
    pytester: pytest.Pytester, cluster: LocalCluster, path: Path, run: Run, workers: str
) -> None:
    pytester.makepyfile(
        f"""
        from conftest import *

        own = cluster_fixture(scope="run")
        PIDS = {[server.pid for server in cluster.servers]}

        @pytest.mark.cluster(scope="run")
        @pytest.mark.parametrize("n", range(2))
        def test_it(local_cluster, n):
            assert local_cluster.workers[0].pid == PIDS[0]
            assert local_cluster.ps[0].variables() == {{}}
            with local_cluster.session() as session, device("/job:ps/task:0"):
                session.run(Variable(1.0, name="v").initializer)

        def test_fixture(own):
            assert own.workers[0].pid == PIDS[0]
        """
    )
    run("-n", workers, f"--cluster-attach={path}").assert_outcomes(passed=3)


def test_a_fork_of_a_test_does_not_keep_it(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        from conftest import *

        @pytest.mark.cluster(scope="run")
        def test_it(local_cluster):
            seen(local_cluster)
            pid = os.fork()
            if not pid:
                signal.alarm(60)
                while True:
                    signal.pause()
            Path("child").write_text(str(pid))
        """
    )
    result = run("-n", "1")
    result.assert_outcomes(passed=1)
    assert not living(pytester)
    child = int((pytester.path / "child").read_text())
    os.kill(child, signal.SIGKILL)  # it was there until now


@pytest.mark.parametrize("leaves", ["coverage of a task", "nothing"])
def test_coverage(pytester: pytest.Pytester, run: Run, leaves: str) -> None:
    pytest.importorskip("pytest_cov")
    pytester.makepyfile(
        measured="""
        def there():
            return 1

        def nowhere():
            return 2
        """
    )
    work = "local_cluster.run(measured.there)" if leaves != "nothing" else "pass"
    pytester.makepyfile(
        f"""
        from conftest import *
        import measured

        @pytest.mark.cluster(scope="run")
        @pytest.mark.parametrize("n", range(2))
        def test_it(local_cluster, n):
            {work}
        """
    )
    result = run("-n", "2", "--cov=measured", "--cov-report=term-missing")
    result.assert_outcomes(passed=2)
    missing = "4      1 *5" if leaves != "nothing" else "4      2 *2, 5"
    result.stdout.fnmatch_lines([f"measured.py *{missing}*"])


def test_it_is_on_this_machine(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        from conftest import *

        @pytest.mark.cluster(scope="run")
        def test_it(local_cluster):
            pass
        """
    )
    result = run("-n", "1", "--cluster-launcher=ray")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "E*a cluster of scope 'run' cannot be on other machines: *",
            "*To fix this: use another scope, or the launcher 'process'",
        ]
    )
