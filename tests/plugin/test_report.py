"""What reports show of the tasks' logs: in the terminal, under xdist, in junit xml, in files."""

from __future__ import annotations

import xml.etree.ElementTree as ET
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
    local_cluster.workers[0].run(print, "more words")
    local_cluster.workers[0].run(exec, "import sys; sys.stderr.write('errors too\\\\n')")
    assert 0

def test_green_again(local_cluster):
    local_cluster.ps[0].run(print, "hushed words")
"""


def test_a_red_test_shows_its_words(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makepyfile(TESTS)
    # One process for all three, so that they share the cluster and its logs.
    result = run_both("--junitxml=junit.xml", "-o", "junit_logging=all", "-rA")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*Captured log /job:worker/task:0 call*",
            "<Server /job:worker/task:0 at localhost:*: running, pid *>",
            "more words",
            "errors too",
            "*Captured log /job:ps/task:0 call*",
            "<Server /job:ps/task:0 at localhost:*: running, pid *>",
            "loud words",
        ],
        consecutive=False,
    )
    result.stdout.no_fnmatch_line("*quiet words*")
    result.stdout.no_fnmatch_line("*hushed words*")
    texts = {
        case.attrib["name"]: "".join(case.itertext())
        for case in ET.parse(pytester.path / "junit.xml").iter("testcase")
    }
    for words in ("loud words", "more words", "/job:ps/task:0 at localhost:"):
        assert words in texts["test_red"]
        assert words not in texts["test_green"] + texts["test_green_again"]
    assert "quiet words" not in "".join(texts.values())


@pytest.mark.parametrize("option", ["--cluster-logs=all", "ini"])
def test_all_logs(
    pytester: pytest.Pytester, run_both: Run, ini: Callable[[str], object], option: str
) -> None:
    if option == "ini":
        ini("cluster_logs = all\n")
        option = "-rf"
    pytester.makepyfile(TESTS)
    result = run_both(option)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "loud words",
            "*logs of *::test_green*",
            "*Captured log /job:ps/task:0 call*",
            "quiet words",
            "*logs of *::test_green_again*",
            "hushed words",
        ]
    )
    assert result.stdout.str().count("quiet words") == 1


def test_all_logs_are_not_shown_twice(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(TESTS)
    shown = run("--cluster-logs=all", "-rP").stdout.str()
    assert shown.count("quiet words") == 1


def test_no_logs(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(TESTS)
    result = run("--cluster-logs=none")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.no_fnmatch_line("loud words")


def test_every_kind_of_failure(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import unittest
        import pytest

        @pytest.fixture
        def broken_setup(local_cluster):
            local_cluster.ps[0].run(print, "words in setup")
            raise RuntimeError("setup")

        def test_setup(broken_setup):
            pass

        @pytest.fixture
        def broken_teardown(local_cluster):
            yield
            local_cluster.ps[0].run(print, "words in teardown")
            raise RuntimeError("teardown")

        def test_teardown(broken_teardown, local_cluster):
            local_cluster.ps[0].run(print, "words in call")

        @pytest.mark.usefixtures("local_cluster")
        class Test(unittest.TestCase):
            def test_unittest(self):
                self.local_cluster.ps[0].run(print, "words in unittest")
                self.fail()

        @pytest.mark.xfail(strict=True)
        def test_strict(local_cluster):
            local_cluster.ps[0].run(print, "words in strict xfail")

        @pytest.mark.xfail
        def test_xfail(local_cluster):
            local_cluster.ps[0].run(print, "words in xfail")
            assert 0

        def test_skip(local_cluster):
            local_cluster.ps[0].run(print, "words in skip")
            pytest.skip()

        def test_own_cluster():
            from pytest_localcluster import LocalCluster

            with LocalCluster(workers=1) as cluster:
                cluster.workers[0].run(print, "words in with")
                assert 0
        """
    )
    result = run()
    result.assert_outcomes(failed=3, errors=2, passed=1, skipped=1, xfailed=1)
    shown = result.stdout.str()
    for place in ("setup", "teardown", "call", "unittest", "strict xfail", "with"):
        assert shown.count(f"\nwords in {place}\n") == 1, place
    assert "words in xfail\n" not in shown
    assert "words in skip\n" not in shown
    assert "/job:worker/task:0 at localhost:" in shown


def test_a_start_that_fails(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_localcluster import NativeRuntime

        class Broken(NativeRuntime):
            def serve(self, assignment):
                import os
                print("words at start", flush=True)
                os._exit(3)

        @pytest.mark.cluster(runtime=Broken(), workers=0)
        def test_it(local_cluster):
            pass
        """
    )
    result = run_both()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_it*",
            "E *StartError: /job:ps/task:0 *",
            "*Captured log /job:ps/task:0 setup*",
            "words at start",
        ]
    )


def test_several_clusters_are_told_apart(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        def test_it(cluster_factory):
            for words in ("first", "second"):
                cluster_factory(workers=0).ps[0].run(print, words)
            assert 0
        """
    )
    run().stdout.fnmatch_lines(
        [
            "*Captured log /job:ps/task:0 call*",
            "first",
            "*Captured log /job:ps/task:0 of cluster 2 call*",
            "second",
        ]
    )


def test_long_logs_are_cut(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        def test_it(local_cluster):
            local_cluster.ps[0].run(print, *range(100_000), sep="\\n")
            assert 0
        """
    )
    result = run("--cluster-log-dir=logs")
    shown = result.stdout.str()
    assert "\n99999\n" in shown
    assert "\n50000\n" not in shown
    assert len(shown) < 50_000
    result.stdout.fnmatch_lines(
        ["* bytes before this are left out; the whole log: */logs/*ps-0.log"]
    )
    result = run()
    result.stdout.fnmatch_lines(["* left out; --cluster-log-dir=DIR keeps the whole log"])


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
    result.assert_outcomes(passed=5, failed=1)
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
            "*[[]/job:ps/task:0] hushed words",
        ]
    )


def test_no_live_logs_without_s(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(TESTS)
    run("-v").stdout.no_fnmatch_line("*] loud words*")
