"""Beside other plugins, without them, and in suites that have no cluster at all."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]


@pytest.mark.parametrize(
    "names",
    [("xdist", "asyncio", "timeout", "junitxml"), ("capture", "debugging"), ("terminal",)],
    ids=" ".join,
)
def test_without_other_plugins(pytester: pytest.Pytester, run: Run, names: tuple[str, ...]) -> None:
    pytester.makepyfile(
        """
        def test_green(local_cluster):
            local_cluster.ps[0].run(print, "words")

        def test_red(local_cluster):
            local_cluster.ps[0].run(print, "words")
            assert 0
        """
    )
    result = run(*(f"-pno:{name}" for name in names), "--cluster-logs=all")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    if names != ("terminal",):
        result.assert_outcomes(passed=1, failed=1)


def test_a_suite_without_clusters_imports_nothing(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it():
            pass

        def test_imports():
            heavy = ("grpc", "google.protobuf", "numpy", "cloudpickle", "portpicker")
            assert [name for name in heavy if name in sys.modules] == []
            ours = {name for name in sys.modules if name.startswith("pytest_localcluster.")}
            wings = {name.split(".")[1] for name in ours}
            # Some plugins import coverage, which is then asked what it measures.
            assert wings - {"_coverage"} == {"_core", "_observer", "_plugin", "plugin"}
        """
    )
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure():
            print("at the end:", "pytest_localcluster.errors" in sys.modules)
        """
    )
    result = run()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["at the end: False"])


def test_a_failure_without_clusters_shows_no_frame_of_ours(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def broken():
            raise RuntimeError("setup")

        @pytest.fixture
        def breaks_later():
            yield
            raise RuntimeError("teardown")

        def test_setup(broken): pass

        def test_teardown(breaks_later): pass

        def test_call(): assert 0
        """
    )
    result = run()
    result.assert_outcomes(passed=1, failed=1, errors=2)
    assert "localcluster/" not in result.stdout.str()


def test_pdb_stops_where_the_test_does(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_task(local_cluster):
            local_cluster.workers[0].run(int, "no number")

        def test_tasks(local_cluster):
            local_cluster.run(int, "no number", job="ps")

        def test_step(local_cluster):
            from pytest_localcluster import function

            with local_cluster.session() as session:
                session.run(function(int)("no number"))
        """
    )
    result = pytester.run(
        sys.executable,
        "-m",
        "pytest",
        "--pdb",
        timeout=60,
        stdin=b"c\n" * 3,
    )
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "> */test_pdb_stops_where_the_test_does.py(2)test_task()",
            "> */test_pdb_stops_where_the_test_does.py(5)test_tasks()",
            "> */test_pdb_stops_where_the_test_does.py(11)test_step()",
        ]
    )


def test_nothing_of_ours_warns(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makeconftest(
        """
        from pytest_localcluster import cluster_fixture

        trio = cluster_fixture(workers=3, ps=0)
        wide = cluster_fixture(workers=1, ps=0, scope="session")
        """
    )
    pytester.makepyfile(
        """
        import unittest

        import pytest
        from pytest_localcluster import LocalCluster, create_local_cluster

        @pytest.mark.parametrize("local_cluster", [{"workers": 2, "ps": 0}], indirect=True)
        def test_parameter(local_cluster):
            assert len(local_cluster.workers) == 2

        @pytest.mark.cluster(workers=1, launcher="thread")
        def test_thread(local_cluster):
            local_cluster.reset()

        @pytest.mark.cluster(workers=1, scope="module")
        class TestModule:
            def test_one(self, local_cluster):
                local_cluster.workers[0].kill()

            def test_two(self, local_cluster):
                local_cluster.workers[0].restart()

        @pytest.mark.cluster(workers=1, scope="class")
        class TestClass:
            @pytest.fixture(autouse=True)
            def more(self, cluster_factory):
                self.more = cluster_factory(workers=1, ps=0)

            def test_one(self, local_cluster):
                assert self.more.workers

        @pytest.mark.cluster(workers=1, scope="run")
        def test_run(local_cluster):
            pass

        @pytest.mark.cluster(workers=1)
        @pytest.mark.usefixtures("local_cluster")
        class TestUnittest(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                (cls.worker,), _ = create_local_cluster(1, 0)

            def test_it(self):
                assert self.worker.run(len, [1]) == len(self.local_cluster.workers)

        def test_fixtures(session_cluster, cluster_config, lease_port, trio, wide, request):
            assert request.getfixturevalue("local_cluster").workers
            lease_port()

        def test_links():
            with LocalCluster(workers=1, ps=1, links=True) as cluster:
                cluster.partition(cluster.workers, cluster.ps)
        """
    )
    options = ("--cluster-timeline=all", "--cluster-hang-dump=90", "--cluster-logs=all")
    run_both("-Werror", *options).assert_outcomes(passed=9)
