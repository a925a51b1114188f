"""``--cluster-timeline``: which tests get a page and a trace, where those are, who says so."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable

import pytest

from pytest_localcluster._plugin.timeline import file_name
from tests.plugin.conftest import Run
from tests.plugin.pages import words

SUITE = """
import os, signal
import pytest
from pytest_localcluster import Variable, cluster_fixture, device

wide = cluster_fixture(scope="module", workers=1, ps=0)

def test_green(local_cluster):
    local_cluster.ps[0].run(print, "quiet words")

def test_red(local_cluster):
    with device("/job:ps/task:0"):
        w = Variable(1.0, name="w")
    with local_cluster.session() as session:
        session.run(w.initializer)
    local_cluster.ps[0].run(print, "loud words")
    local_cluster.workers[0].kill()
    assert 0, "that was all"

def test_wide(wide):
    wide.run(print, "wide words")
    assert not "either"

def test_without():
    assert 0

@pytest.mark.skip
def test_skipped(local_cluster):
    pass
"""


def test_failed_tests_get_timelines(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makepyfile(test_it=SUITE)
    result = run_both("--cluster-timeline=failed")
    result.assert_outcomes(passed=1, failed=3, skipped=1)
    folder = pytester.path / "cluster-timelines"
    assert sorted(path.name for path in folder.iterdir()) == [
        ".gitignore",
        "test_it.test_red.html",
        "test_it.test_red.trace.json",
        "test_it.test_wide.html",
        "test_it.test_wide.trace.json",
    ]
    red = folder / "test_it.test_red.html"
    shown = words(red)
    assert shown >= {"setup", "call", "teardown", "local_cluster", "w/initializer", "loud words"}
    assert shown >= {"ready", "kill SIGKILL", "was killed by SIGKILL, after the test's SIGKILL"}
    assert "quiet words" not in shown
    text = red.read_text(encoding="utf-8")
    assert "test_it.py::test_red" in text
    assert "that was all" in text
    assert words(folder / "test_it.test_wide.html") >= {"wide words", "running", "teardown"}
    trace = json.loads((folder / "test_it.test_red.trace.json").read_text(encoding="utf-8"))
    assert trace["otherData"]["test"] == "test_it.py::test_red"
    output = result.stdout.str()
    assert output.count(f"\n{red}\n") == 1, "in the report"
    assert f"\n2 timelines in {folder}\n  {red}\n" in output, "in the summary"
    assert str(folder / "test_it.test_green.html") not in output


def test_all_tests_that_use_a_cluster_get_timelines(
    pytester: pytest.Pytester, run_both: Run, ini: Callable[[str], object]
) -> None:
    ini("cluster_timeline = all\n")
    pytester.makepyfile(test_it=SUITE)
    result = run_both("--cluster-log-dir=logs")
    folder = pytester.path / "logs/timelines"
    assert {path.stem for path in folder.glob("*.html")} == {
        "test_it.test_green",
        "test_it.test_red",
        "test_it.test_wide",
    }
    assert "quiet words" in words(folder / "test_it.test_green.html")
    assert not (folder / ".gitignore").exists()
    result.stdout.fnmatch_lines([f"3 timelines in {folder}"])
    assert f"  {folder}/test_it.test_green.html" not in result.stdout.str()


def test_off_is_off(pytester: pytest.Pytester, run: Run, ini: Callable[[str], object]) -> None:
    ini("cluster_timeline = failed\n")
    pytester.makepyfile(
        """
        import sys

        def test_it(local_cluster):
            ours = [name for name in sys.modules if name.startswith("pytest_localcluster")]
            assert [name for name in ours if "timeline" in name or "ring" in name] == []
            assert 0
        """
    )
    result = run("--cluster-timeline=off")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert 0"])
    assert not (pytester.path / "cluster-timelines").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--cluster-timeline=some"], "--cluster-timeline = 'some': use one of off, failed, all"),
        ([], "cluster_timeline (ini) = 'yes': use one of off, failed, all"),
    ],
)
def test_what_cannot_be_is_refused(
    pytester: pytest.Pytester, ini: Callable[[str], object], arguments: list[str], error: str
) -> None:
    ini("cluster_timeline = yes\n")
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_inprocess(*arguments)
    result.stderr.fnmatch_lines([f"ERROR: {error.replace('[', '[[]')}"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_the_page_of_the_last_run_is_replaced(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it="def test_it(local_cluster): assert 0, 'first'")
    run("--cluster-timeline=failed")
    pytester.makepyfile(test_it="def test_it(local_cluster): assert 0, 'second'")
    run("--cluster-timeline=failed")
    pages = list((pytester.path / "cluster-timelines").glob("*"))
    assert len(pages) == 3
    assert "second" in (pytester.path / "cluster-timelines/test_it.test_it.html").read_text()


def test_where_nothing_can_be_written(pytester: pytest.Pytester, run: Run) -> None:
    pytester.path.joinpath("cluster-timelines").write_text("in the way")
    pytester.makepyfile("def test_it(local_cluster): assert 0")
    result = run("--cluster-timeline=failed")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["there is no timeline: FileExistsError: *"])
    assert "timelines in" not in result.stdout.str()


def test_only_the_owner_can_read_the_files(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("def test_it(local_cluster): assert 0")
    run("--cluster-timeline=failed")
    files = [path for path in pytester.path.rglob("*") if path.suffix in (".html", ".json")]
    assert len(files) == 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_names_of_files() -> None:
    assert file_name("unit/test_a.py::TestIt::test_it[1-x]") == "unit.test_a.TestIt.test_it[1-x]"
    one, two = file_name("test_a.py::test_it[a/*]"), file_name("test_a.py::test_it[a/?]")
    assert one != two
    assert re.fullmatch(r"test_a\.test_it\[a\._\]-[0-9a-f]{8}", one)
    long = file_name(f"test_a.py::test_it[{'x' * 500}]")
    assert len(os.fsencode(f"{long}.trace.json")) < 255
    assert len(os.fsencode(file_name("t.py::test[" + "\u00e9" * 200 + "]"))) < 240


def test_its_options_are_in_the_help(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--help")
    result.stdout.fnmatch_lines(["*--cluster-timeline=off|failed|all*"])
