"""``--cluster-attach``: tests on a cluster that is not of their run."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_localcluster import (
    CommandRuntime,
    LocalCluster,
)
from tests.plugin.conftest import Run

Ini = Callable[[str], object]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_tests_use_it(
    pytester: pytest.Pytester, cluster: LocalCluster, path: Path, run: Run, workers: str
) -> None:
    pytester.makepyfile(
        f"""
        import os
        import pytest
        from pytest_localcluster import (
            ClusterSpec, LocalCluster, Session, Variable, cluster_fixture, device, function,
            variables_initializer,
        )

        own = cluster_fixture(workers=2, jobs={{"chief": 1}})
        PIDS = {[server.pid for server in cluster.servers]}

        def test_default(local_cluster):
            workers, ps = local_cluster
            assert [len(workers), len(ps)] == [1, 1]
            assert isinstance(local_cluster, LocalCluster)
            assert [workers[0].pid, ps[0].pid] == [PIDS[0], PIDS[2]]
            assert local_cluster.spec.jobs == ["worker", "ps"]
            assert "running" in repr(local_cluster) and "attached" in repr(ps[0])
            assert ps[0].is_alive() and ps[0].exitcode is None
            assert ps[0].server_def.job_name == "ps"
            assert ps[0].config is None

        @pytest.mark.cluster(workers=2, ps=1, scope="module")
        class TestMarked:
            def test_it(self, local_cluster):
                with device("/job:ps/task:0"):
                    v = Variable(1.0, name="v")
                with local_cluster.session("/job:worker/task:1") as session:
                    session.run(variables_initializer([v]))
                    assert session.run(function(os.getpid)()) == PIDS[1]
                assert local_cluster.ps[0].variables() == {{"v": 1.0}}
                local_cluster.reset()
                assert local_cluster.ps[0].variables() == {{}}
                with local_cluster.session() as session:
                    session.run(variables_initializer([v]))

            def test_it_is_as_if_just_started(self, local_cluster):
                assert local_cluster.ps[0].variables() == {{}}

        def test_fixture(own):
            assert [s.pid for s in own.servers] == PIDS
            (chief,) = own.jobs["chief"]
            with own.session(chief) as session:
                assert session.run(function(os.getpid)()) == PIDS[3]

        def test_factory(cluster_factory):
            assert cluster_factory(workers=2).workers[1].pid == PIDS[1]

        @pytest.mark.parametrize("local_cluster", [dict(workers=2, ps=0)], indirect=True)
        def test_parameter(local_cluster):
            assert len(local_cluster.workers) == 2
            assert local_cluster.ps == []

        def test_joining(local_cluster):
            spec = ClusterSpec.from_tf_config(local_cluster.environ()["TF_CONFIG"])
            assert spec == local_cluster.spec

        def test_it_is_closed_afterwards(local_cluster):
            global session
            session = local_cluster.session()

        def test_closed():
            with pytest.raises(Exception, match="this session is closed"):
                session.run(function(os.getpid)())
        """
    )
    result = run(f"--cluster-attach={path}", "-n", workers)
    result.assert_outcomes(passed=9)
    assert [server.is_alive() for server in cluster.servers] == [True] * 4


HEADER = "localcluster: attached to {}: 2 worker, 1 ps, 1 chief; reset before each test"


def test_it_is_said_on_top(
    pytester: pytest.Pytester, cluster: LocalCluster, path: Path, ini: Ini, run: Run
) -> None:
    ini(f"cluster_attach = {path.relative_to(path.parents[1])}")
    pytester.makepyfile("def test_it(local_cluster): print(local_cluster.servers)")
    link = pytester.path / path.parent.name
    link.symlink_to(path.parent)
    result = run("-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([HEADER.format(link / path.name)])
    result.stdout.fnmatch_lines([f"*/job:ps/task:0 at *: attached, pid {cluster.ps[0].pid}*"])


def test_a_test_that_asks_for_more_is_an_error(
    pytester: pytest.Pytester, path: Path, run: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.cluster(workers=3)
        def test_more(local_cluster):
            raise AssertionError("it ran")

        def test_less(local_cluster):
            pass
        """
    )
    result = run(f"--cluster-attach={path}")
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["E *it asks for 3 worker, and there are 2"])


def test_there_is_only_one(pytester: pytest.Pytester, path: Path, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_two(local_cluster, cluster_factory):
            with pytest.raises(ValueError, match="asks for a second cluster while it"):
                cluster_factory()

        def test_a_session(session_cluster):
            pass

        def test_beside_it(local_cluster):
            pass
        """
    )
    result = run(f"--cluster-attach={path}")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*asks for a second cluster while it, or a fixture of a wider*"])


def test_clusters_of_its_own_are_started(
    pytester: pytest.Pytester, cluster: LocalCluster, path: Path, run: Run
) -> None:
    pytester.makepyfile(
        f"""
        from pytest_localcluster import LocalCluster, create_local_cluster

        def test_it():
            (worker,), _ = create_local_cluster(1, 0)
            assert worker.run(int) == 0
            assert worker.pid not in {[server.pid for server in cluster.servers]}
        """
    )
    run(f"--cluster-attach={path}").assert_outcomes(passed=1)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_red_test_shows_the_logs(
    pytester: pytest.Pytester, cluster: LocalCluster, path: Path, run: Run, workers: str
) -> None:
    cluster.workers[0].run(print, "before the test")
    pytester.makepyfile(
        """
        from pytest_localcluster import function

        def test_it(local_cluster):
            with local_cluster.session() as session:
                session.run(function(print, num_outputs=1)("in the test"))
            assert 0
        """
    )
    result = run(f"--cluster-attach={path}", "-n", workers)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*Captured log /job:worker/task:0 call*",
            f"the whole log: {cluster.workers[0].log.path}",
            "in the test",
        ]
    )
    assert "before the test" not in result.stdout.str()


def test_a_death_fails_the_test_that_it_is_seen_in(
    pytester: pytest.Pytester, cluster: LocalCluster, path: Path, run: Run
) -> None:
    pytester.makepyfile(
        """
        import os, signal
        import pytest
        from pytest_localcluster import Session

        def test_it(local_cluster):
            os.kill(local_cluster.ps[0].pid, signal.SIGKILL)
            local_cluster.ps[0].join()

        def test_next(local_cluster):
            pass
        """
    )
    result = run(f"--cluster-attach={path}")
    result.assert_outcomes(failed=1, errors=1)
    pid = cluster.ps[0].pid
    result.stdout.fnmatch_lines(
        [
            "/job:ps/task:0 of the cluster that pytest is attached to has ended",
            f"  at {cluster.ps[0].address}, pid {pid}",
        ]
    )
    assert cluster.ps[0].join(10, check=False) == -signal.SIGKILL


def test_what_is_not_native(pytester: pytest.Pytester, tmp_path: Path, run: Run) -> None:
    # As for a service that nobody of us has started: the file is written by hand.
    runtime = CommandRuntime(ps=["python3", "-m", "http.server", "--bind", "{host}", "{port}"])
    with LocalCluster(workers=0, ps=1, runtime=runtime) as cluster:
        path = tmp_path / "mine.json"
        path.write_text(
            json.dumps({"cluster": {"ps": [cluster.ps[0].address]}, "runtime": "command"})
        )
        pytester.makepyfile(
            """
            import urllib.request
            import pytest
            from pytest_localcluster import CommandRuntime, UnsupportedError

            pytestmark = pytest.mark.cluster(workers=0, runtime=CommandRuntime(ps=["that"]))

            def test_it(local_cluster):
                (server,) = local_cluster.ps
                assert urllib.request.urlopen(f"http://{server.address}").status == 200
                assert (server.pid, server.is_alive(), server.log.text()) == (None, True, "")
                with pytest.raises(UnsupportedError, match="nothing is known of how to reset"):
                    local_cluster.reset()
                with pytest.raises(UnsupportedError, match="no Session can be opened"):
                    local_cluster.session("/job:ps/task:0")

            def test_again(local_cluster):
                assert local_cluster.ps
            """
        )
        result = run(f"--cluster-attach={path}")
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["localcluster: attached to *: 1 ps; not reset between tests"])
    result = run(f"--cluster-attach={path}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["  | /job:ps/task:0: nobody listens there: *"])
