"""Where the tasks' logs go beside reports: into files that are kept, and live on the terminal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

TESTS = """
import pytest

pytestmark = pytest.mark.cluster(scope="module")

def test_green(local_cluster):
    local_cluster.ps[0].run(print, "quiet words")

def test_red(local_cluster):
    local_cluster.ps[0].run(print, "loud words")
    local_cluster.workers[0].run(exec, "import sys; sys.stderr.write('errors too\\\\n')")
    assert 0
"""


def test_kept_logs(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.mkpydir("unit").joinpath("test_a.py").write_text(
        TESTS.replace("scope=", "workers=2, scope=")
        + """
@pytest.mark.cluster(scope="function")
@pytest.mark.parametrize("n", ["a/b*", 2])
def test_own(local_cluster, n):
    local_cluster.workers[0].run(print, "own words")

def test_session(session_cluster, cluster_factory):
    session_cluster.workers[0].run(print, "session words")
    cluster_factory().ps[0].run(print, "one")
    cluster_factory().ps[0].run(print, "two")
"""
    )
    result = run_both("--cluster-log-dir=logs")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(
        ["the whole log: */logs/unit.test_a-module-local_cluster*/ps-0.log"]
    )
    logs = pytester.path / "logs"
    names = {path.name.replace("-gw0", "").replace("-gw1", "") for path in logs.iterdir()}
    assert names == {
        "unit.test_a-module-local_cluster",
        "unit.test_a.test_own[a.b_]",
        "unit.test_a.test_own[2]",
        "session_cluster",
        "unit.test_a.test_session",
        "unit.test_a.test_session-2",
    }
    by_worker = {path.name for path in logs.iterdir() if "-gw" in path.name}
    assert all("cluster" in name for name in by_worker)
    own = logs / "unit.test_a.test_own[2]"
    files = {path.name: path for path in own.iterdir()}
    assert sorted(files) == ["ps-0.log", "worker-0.log", "worker-1.log"]
    assert "own words" in files["worker-0.log"].read_text()
    assert files["worker-0.log"].stat().st_mode & 0o777 == 0o600


def test_kept_logs_of_an_earlier_run_stay(
    pytester: pytest.Pytester, run: Run, ini: Callable[[str], object]
) -> None:
    ini("cluster_log_dir = build/logs\n")
    pytester.mkdir("sub").joinpath("test_it.py").write_text(
        "def test_it(local_cluster, request):\n    local_cluster.ps[0].run(print, 'words')\n"
    )
    for _ in range(2):
        run("sub").assert_outcomes(passed=1)
    logs = sorted((pytester.path / "build" / "logs").iterdir())
    assert [path.name for path in logs] == ["sub.test_it.test_it", "sub.test_it.test_it-2"]
    assert [(path / "ps-0.log").read_text() for path in logs] == ["words\n", "words\n"]


def test_live_logs(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(TESTS)
    result = run("-s")
    result.stdout.fnmatch_lines_random(
        [
            "*[[]/job:ps/task:0] quiet words",
            "*[[]/job:ps/task:0] loud words",
            "*[[]/job:worker/task:0] errors too",
        ]
    )


def test_a_log_that_somebody_deleted(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import os
        import shutil
        import pytest

        def test_all_logs(local_cluster):
            shutil.rmtree(local_cluster.servers[0].log.path.parent)
            assert "this test" == "failed by itself"

        @pytest.mark.cluster(scope="module")
        def test_instead_of_the_log_there_is_a_folder(local_cluster):
            local_cluster.ps[0].run(print, "words")
            path = local_cluster.workers[0].log.path
            path.unlink()
            path.mkdir()
            assert "this test" == "failed by itself"

        @pytest.mark.cluster(scope="module")
        def test_next(local_cluster):
            os.rmdir(local_cluster.workers[0].log.path)
        """
    )
    result = run("-s")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*Captured log /job:worker/task:0 call*",
            "its log cannot be read: *Is a directory*",
            "*Captured log /job:ps/task:0 call*",
            "words",
        ]
    )
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


FOLDERS = """
import pytest
from pytest_localcluster import CommandRuntime, cluster_fixture

STAY = ["sh", "-c", "echo state > {dir}/state; exec sleep 1000"]
RUNTIME = CommandRuntime(ps=STAY, ready=lambda server: (server.dir / "state").exists())
pytestmark = pytest.mark.cluster(workers=0, runtime=RUNTIME)
shared = cluster_fixture(scope="module", workers=0, runtime=RUNTIME)

def test_green(local_cluster):
    assert (local_cluster.ps[0].dir / "state").read_text() == "state\\n"

def test_red(local_cluster, cluster_factory):
    cluster_factory(workers=0, runtime=RUNTIME)
    assert 0

def test_red_with_a_cluster_of_others(shared):
    assert 0

def test_green_after_it(shared):
    pass
"""


def test_the_folders_of_a_failed_test_are_kept_with_its_logs(
    pytester: pytest.Pytester, run_both: Run
) -> None:
    pytester.makepyfile(test_a=FOLDERS)
    run_both("--cluster-log-dir=logs").assert_outcomes(passed=2, failed=2)
    logs = pytester.path / "logs"
    kept = {path.parents[1].name for path in logs.rglob("state")}
    assert {name.partition("-gw")[0] for name in kept} == {
        "test_a.test_red",
        "test_a.test_red-2",
        "test_a-shared",
    }
    assert {path.name for path in (logs / "test_a.test_green").iterdir()} == {"ps-0.log"}


def test_no_folder_is_kept_where_no_log_is(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makepyfile(test_a=FOLDERS)
    run_both("--basetemp=temporary").assert_outcomes(passed=2, failed=2)
    assert list(pytester.path.rglob("state")) == []
