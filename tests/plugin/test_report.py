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
    result.stdout.no_fnmatch_line("*] loud words*")  # not live
    texts = {
        case.attrib["name"]: "".join(case.itertext())
        for case in ET.parse(pytester.path / "junit.xml").iter("testcase")
    }
    for words in ("loud words", "more words", "/job:ps/task:0 at localhost:"):
        assert words in texts["test_red"]
        assert words not in texts["test_green"] + texts["test_green_again"]
    assert "quiet words" not in "".join(texts.values())


@pytest.mark.parametrize("mode", ["plain, by ini", "xdist, by option"])
def test_all_logs(
    pytester: pytest.Pytester, run: Run, ini: Callable[[str], object], mode: str
) -> None:
    pytester.makepyfile(TESTS)
    if mode == "plain, by ini":
        ini("cluster_logs = all\n")
        result = run("-rf")
    else:
        result = run("-n2", "--dist=loadfile", "--cluster-logs=all")
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


def test_a_start_that_fails(pytester: pytest.Pytester, run: Run) -> None:
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
    result = run()
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
        from pytest_localcluster import LocalCluster

        def test_it(local_cluster):
            local_cluster.ps[0].run(print, *range(100_000), sep="\\n")
            assert 0

        def test_kept():
            with LocalCluster(workers=0, log_dir="logs") as cluster:
                cluster.ps[0].run(print, *range(200_000), sep="\\n")
                assert 0
        """
    )
    result = run()
    shown = result.stdout.str()
    assert "\n99999\n" in shown
    assert "\n50000\n" not in shown
    assert len(shown) < 90_000
    result.stdout.fnmatch_lines(
        [
            "* left out; --cluster-log-dir=DIR keeps the whole log",
            "* bytes before this are left out; the whole log: logs/ps-0.log",
        ]
    )
