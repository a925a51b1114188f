"""Timelines of tests that end in all kinds of ways, and of clusters of all kinds."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.plugin.conftest import Run
from tests.plugin.pages import data_of, words


def test_failures_outside_of_the_call(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest
        from pytest_localcluster import CommandRuntime

        @pytest.fixture
        def broken(local_cluster):
            raise ValueError("in the setup")

        @pytest.fixture
        def late(local_cluster):
            yield
            raise ValueError("in the teardown")

        def test_setup(broken):
            pass

        @pytest.mark.cluster(workers=1, ps=0, runtime=CommandRuntime(worker=["false"]))
        def test_start(local_cluster):
            pass

        def test_teardown(late):
            pass

        @pytest.mark.xfail(strict=True)
        def test_no_surprise(local_cluster):
            assert 0
        """
    )
    result = run("--cluster-timeline=failed")
    result.assert_outcomes(passed=1, errors=3, xfailed=1)
    folder = pytester.path / "cluster-timelines"
    assert {path.stem for path in folder.glob("*.html")} == {
        *("test_it.test_setup", "test_it.test_start", "test_it.test_teardown")
    }
    assert "in the teardown" in (folder / "test_it.test_teardown.html").read_text(encoding="utf-8")
    assert "died on its own: exited with status 1" in words(folder / "test_it.test_start.html")
    result.stdout.fnmatch_lines([f"3 timelines in {folder}"])
    for name in ("setup", "start", "teardown"):
        assert result.stdout.str().count(f"\n{folder}/test_it.test_{name}.html\n") == 1


def test_deaths_and_leaks_count_as_failures(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_it="""
        import os, signal
        from pytest_localcluster import lease_port

        def test_death(local_cluster):
            os.kill(local_cluster.ps[0].pid, signal.SIGKILL)
            local_cluster.ps[0]._life.process.wait(__import__(
                "pytest_localcluster._clock", fromlist=["Deadline"]).Deadline(30))

        def test_leak(local_cluster):
            lease_port()
        """
    )
    result = run("--cluster-timeline=failed")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    folder = pytester.path / "cluster-timelines"
    assert "died on its own: was killed by SIGKILL" in words(folder / "test_it.test_death.html")
    assert (folder / "test_it.test_leak.html").exists()


def test_a_test_that_is_interrupted(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_it="""
        import os, signal

        def test_it(local_cluster):
            local_cluster.run(print, "so far")
            os.kill(os.getpid(), signal.SIGINT)
            local_cluster.run(print, "never")
        """
    )
    result = run("--cluster-timeline=failed")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    page = pytester.path / "cluster-timelines/test_it.test_it.html"
    result.stdout.fnmatch_lines([f"1 timeline in {page.parent}", f"  {page}"])
    assert "so far" in words(page)
    assert ">interrupted</strong>" in page.read_text(encoding="utf-8")


def test_clusters_of_every_kind(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_it="""
        import unittest
        import pytest
        from pytest_localcluster import LocalCluster, create_local_cluster

        @pytest.mark.usefixtures("local_cluster")
        class TestOld(unittest.TestCase):
            def test_it(self):
                self.local_cluster.run(print, "of a TestCase")
                assert 0

        def test_by_hand():
            with LocalCluster(workers=1, ps=0) as cluster:
                cluster.run(print, "by hand")
            workers, _ = create_local_cluster(1, 1)
            workers[0].run(print, "like the ancestor")
            assert 0

        @pytest.mark.cluster(launcher="thread")
        def test_threads(local_cluster):
            local_cluster.ps[0].log.write("in threads\\n")
            assert 0
        """
    )
    result = run("--cluster-timeline=failed")
    result.assert_outcomes(failed=3)
    folder = pytester.path / "cluster-timelines"
    assert "of a TestCase" in words(folder / "test_it.TestOld.test_it.html")
    assert words(folder / "test_it.test_by_hand.html") >= {"by hand", "like the ancestor"}
    names = [g["name"] for g in data_of(folder / "test_it.test_by_hand.html")["groups"]]
    assert names == [
        "the test",
        "cluster 1 /job:worker/task:0",
        "cluster 2 /job:worker/task:0",
        "cluster 2 /job:ps/task:0",
    ]
    assert "in threads" in words(folder / "test_it.test_threads.html")


@pytest.mark.skipif(sys.platform != "linux", reason="keeps clusters")
def test_of_a_cluster_that_is_kept_and_then_attached_to(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        test_it="def test_it(local_cluster): assert local_cluster.run(print, 'red words') is None",
        test_other="""
        from pytest_localcluster import constant

        def test_other(local_cluster):
            with local_cluster.session() as session:
                assert session.run(constant(1.0, name="one")) == 1.0
        """,
    )
    result = run("--cluster-timeline=failed", "--cluster-keep=failed", "test_it.py")
    result.assert_outcomes(failed=1)
    folder = pytester.path / "cluster-timelines"
    assert words(folder / "test_it.test_it.html") >= {"red words", "running"}
    match = re.search(r"down (\S+)$", result.stdout.str(), re.MULTILINE)
    assert match is not None
    try:
        result = run(f"--cluster-attach={match[1]}", "--cluster-timeline=all", "test_other.py")
        result.assert_outcomes(passed=1)
        page = data_of(folder / "test_other.test_other.html")
        own, *lanes = page["groups"]
        assert [bar[3] for row in own["rows"] for bar in row["bars"] if bar[2] == "session"] == [
            "one:0"
        ]
        assert [lane["name"] for lane in lanes] == ["/job:worker/task:0", "/job:ps/task:0"]
    finally:
        command = [sys.executable, "-m", "pytest_localcluster", "down", match[1]]
        subprocess.run(command, check=True, capture_output=True)
