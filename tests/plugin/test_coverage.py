"""Coverage of what runs in tasks: as of what runs in the test itself, with nothing configured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

# Older releases cannot be told to follow forks that end with os._exit.
pytest.importorskip("coverage", minversion="7.10")

WORK = """
def in_a_function(n):
    total = 0
    for i in range(n):
        total += i
    return total

def in_an_operation(x):
    y = x + 1
    return y

def in_a_thread():
    import threading
    found = []
    def look():
        found.append(1)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found
"""

TESTS = """
import numpy as np
import pytest
import work
from pytest_localcluster import function

@pytest.mark.parametrize("n", [4, 5])
def test_it(local_cluster, n):
    assert local_cluster.workers[0].run(work.in_a_function, n) in (6, 10)
    assert local_cluster.workers[0].run(work.in_a_thread) == [1]
    with local_cluster.session() as session:
        assert session.run(function(work.in_an_operation)(np.float64(1))) == 2
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(work=WORK, test_it=TESTS)
    return pytester


@pytest.mark.parametrize("mode", [(), ("-n2",)], ids=["plain", "xdist"])
@pytest.mark.parametrize("config", ["", "[run]\npatch =\n    subprocess\n    _exit\n"])
def test_whatever_is_configured(
    suite: pytest.Pytester, run: Run, mode: tuple[str, ...], config: str
) -> None:
    (suite.path / ".coveragerc").write_text(config)
    result = run(*mode, "--cov=work", "--cov-report=term-missing", "--cov-branch")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["work.py * 100%*"])
    assert list(suite.path.glob(".coverage.*")) == []  # all were combined


def test_without_pytest_cov(suite: pytest.Pytester) -> None:
    def coverage(*args: str) -> str:
        command = (sys.executable, "-m", "coverage", *args)
        done = subprocess.run(command, capture_output=True, text=True, cwd=suite.path, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    coverage("run", "--parallel-mode", "--source=.", "-m", "pytest", "-q")
    coverage("combine")
    (line,) = [line for line in coverage("report").splitlines() if line.startswith("work.py")]
    assert line.endswith("100%")


def test_from_wherever_the_test_starts_its_cluster(suite: pytest.Pytester, run: Run) -> None:
    suite.makepyfile(
        test_own="""
        import os
        import work
        from pytest_localcluster import LocalCluster

        def test_it(tmp_path, monkeypatch):
            monkeypatch.chdir(tmp_path)
            with LocalCluster(workers=1, ps=0) as cluster:
                cluster.run(work.in_a_function, 4)
            assert os.listdir() == []
        """,
    )
    result = run("--cov=work", "--cov-report=term-missing", "test_own.py")
    result.stdout.fnmatch_lines(["work.py * 8-9, 12-19"])


def test_of_what_is_imported_before_tasks_are_forked(
    suite: pytest.Pytester, run: Run, ini: Callable[[str], object]
) -> None:
    ini("cluster_preload = work")
    suite.makepyfile(
        test_own="""
        def test_it(local_cluster):
            def call():
                import work
                return work.in_a_function(4)

            assert local_cluster.run(call) == [6]
        """,
    )
    result = run("--cov=work", "--cov-report=term-missing", "test_own.py")
    result.stdout.fnmatch_lines(["work.py * 8-9, 12-19"])


def test_the_rest_is_there_when_a_task_was_killed(suite: pytest.Pytester, run: Run) -> None:
    suite.makepyfile(
        test_own="""
        import pytest
        import work

        @pytest.mark.cluster(workers=2, ps=0)
        def test_it(local_cluster):
            killed, other = local_cluster.workers
            killed.run(work.in_a_thread)
            other.run(work.in_a_function, 4)
            killed.kill()
        """,
    )
    result = run("--cov=work", "--cov-report=term-missing", "test_own.py")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["work.py * 8-9, 12-19"])


def test_a_paused_coverage_measures_nothing(suite: pytest.Pytester, run: Run) -> None:
    suite.makepyfile(
        test_own="""
        import pytest
        import work
        from pytest_localcluster import LocalCluster

        @pytest.mark.no_cover
        def test_it():
            with LocalCluster() as cluster:
                cluster.run(work.in_a_function, 4)
        """,
    )
    result = run("--cov=work", "--cov-report=term-missing", "test_own.py")
    result.stdout.fnmatch_lines(["work.py * 2-5, 8-9, 12-19"])
