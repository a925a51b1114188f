"""What starts tasks gets ready once it is known that it will be needed, and only then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., pytest.RunResult]

CONFTEST = """
import os
import sys

def begun():
    process = sys.modules.get("pytest_localcluster._launch.process")
    return {} if process is None else {key[0]: one._server.pid
                                       for key, one in process._launchers.items()}

def pytest_runtestloop(session):
    print("begun:", len(begun()))
"""

SUITE = """
import os
import sys
import pytest
import psutil
from conftest import begun
from pytest_localcluster import cluster_fixture

own = cluster_fixture(scope="module", ps=0, preload=["colorsys"])

def test_of_something_else():
    sure = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2  # there only of the next test
    assert len(begun()) == sure
    assert "pytest_localcluster._cluster" in sys.modules, "a start imports little"

@pytest.mark.cluster(ps=0)
@pytest.mark.parametrize("n", range(3))
def test_with_a_cluster(local_cluster, n):
    (guard,) = [pid for preload, pid in begun().items() if preload[-1] != "colorsys"]
    assert psutil.Process(local_cluster.run(os.getppid)[0]).ppid() == guard

def test_with_its_own(own):
    (guard,) = [pid for preload, pid in begun().items() if preload[-1] == "colorsys"]
    assert psutil.Process(own.run(os.getppid)[0]).ppid() == guard

def test_with_none():
    pass

@pytest.mark.skipif(True, reason="may be")
@pytest.mark.cluster(preload=["this"])
def test_skipped(local_cluster):
    pass
"""


@pytest.fixture(autouse=True)
def conftest(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)


def test_each_set_of_imports_begins_once(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makepyfile(SUITE)
    run_both().assert_outcomes(passed=6, skipped=1)


@pytest.mark.parametrize(
    ("options", "begun"),
    [
        ("-k with_none", 0),
        ("-k its_own", 1),
        ("--deselect test_it.py::test_with_its_own", 1),
        ("--setup-plan", 0),
        ("--cluster-launcher=thread -k with", 0),
    ],
)
def test_only_what_will_be_needed(
    pytester: pytest.Pytester, run: Run, options: str, begun: int
) -> None:
    pytester.makepyfile(test_it=SUITE)
    pytester.makeconftest(CONFTEST + "    return True\n")  # and nothing runs
    run("-s", *options.split()).stdout.fnmatch_lines([f"begun: {begun}"])


def test_what_nobody_knows_is_not_guessed(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def cluster_config(cluster_config):
            return cluster_config.replace(launcher="thread")

        def test_it(local_cluster):
            pass

        @pytest.mark.cluster(runtime=object())
        def test_of_a_mistake(local_cluster):
            pass
        """
    )
    result = run("-s")
    result.stdout.fnmatch_lines(["*has no method serve()*"])
    assert "begun: 1" not in result.stdout.str()


def test_what_comes_later_is_not_missed(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest(
        """
        import os, pathlib, sys, pytest

        @pytest.fixture(scope="session", autouse=True)
        def made(tmp_path_factory):
            folder = tmp_path_factory.mktemp("made")
            (folder / "made_late.py").write_text("import os; COLOUR = os.environ['COLOUR']")
            sys.path.insert(0, str(folder))
            sys.path.append(folder)  # as imports ignore it, so do we
            os.environ["COLOUR"] = "blue"
        """
    )
    pytester.makepyfile(
        """
        import pytest

        def colour():
            import made_late
            return made_late.COLOUR

        @pytest.mark.cluster(ps=0, preload=["made_late"])
        def test_it(local_cluster, made):
            assert local_cluster.run(colour) == ["blue"]
        """
    )
    run().assert_outcomes(passed=1)


def test_who_has_the_clusters_of_the_run_gets_ready_for_them(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        """
        import os
        import psutil
        import pytest
        from conftest import begun
        from pytest_localcluster import cluster_fixture
        from pytest_localcluster._clock import Deadline, poll

        def guards():
            "Return what is below the steward of this run."
            run = os.environ["PYTEST_XDIST_TESTRUNUID"]
            return [
                child.pid
                for process in psutil.process_iter(["cmdline"])
                if "_steward.boot" in " ".join(process.info["cmdline"] or ())
                and process.environ().get("PYTEST_XDIST_TESTRUNUID") == run
                for child in process.children()
            ]

        own = cluster_fixture(scope="run", preload=["colorsys"])

        @pytest.mark.cluster(scope="run", ps=0)
        def test_before(request):
            assert poll(guards, Deadline(60))
            assert not begun()

        @pytest.mark.cluster(scope="run", ps=0)
        def test_with_a_cluster(local_cluster):
            task = psutil.Process(local_cluster.workers[0].pid)
            assert task.parent().ppid() in guards()
            assert not begun()

        def test_with_its_own(own):
            assert own.workers[0].run(os.getpid)
            assert not begun()
        """
    )
    run("-n", "1").assert_outcomes(passed=3)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors")
def test_what_workers_share_comes_with_the_first_start(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import gc, os
        from pytest_localcluster import LocalCluster

        def held():
            gc.collect()
            return sorted(os.listdir("/proc/self/fd"))

        def test_it():
            LocalCluster().start().stop()
            before = held()
            LocalCluster().start().stop()
            assert held() == before
        """
    )
    run("-n", "1").assert_outcomes(passed=1)
