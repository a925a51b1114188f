"""Subtests, of pytest's fixture and of unittest: each failure shows the tasks' logs, once."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

pytestmark = pytest.mark.skipif(
    pytest.version_tuple < (9, 0), reason="pytest has subtests from 9.0 on"
)

TESTS = """
import os
import unittest

import pytest
from pytest_localcluster import create_local_cluster
from pytest_localcluster._clock import Deadline, poll

pytestmark = pytest.mark.cluster(workers=1, ps=0)

def test_pytests(local_cluster, subtests):
    worker = local_cluster.workers[0]
    with subtests.test("good"):
        worker.run(print, "words of good")
    with subtests.test("bad"):
        worker.run(print, "words of bad")
        assert 0
    with subtests.test("worse"):
        worker.run(print, "words of worse")
        assert 0
    worker.run(print, "words of the rest")

class TestUnittests(unittest.TestCase):
    def test_it(self):
        (worker,), _ = create_local_cluster(1, 0)
        with self.subTest("bad"):
            worker.run(print, "words of bad")
            self.fail()
        with self.subTest("worse"):
            worker.run(print, "words of worse")
            self.fail()

def test_a_death(local_cluster, subtests):
    worker = local_cluster.workers[0]
    with subtests.test("dies"):
        worker.run(print, "words of bad")
        worker.submit(os._exit, 3)
        assert poll(lambda: not worker.is_alive(), Deadline(20))
    with subtests.test("is dead"):
        assert not worker.is_alive()
"""


def reports(result: pytest.RunResult) -> dict[str, str]:
    """Return the text of each failure, by its head line."""
    parts = re.split(r"^_{3,} (.*?) _{3,}$", result.stdout.str(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def words(text: str) -> list[str]:
    return re.findall(r"^words of (.*)$", text, re.MULTILINE)


def test_each_subtest_shows_its_own(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makepyfile(TESTS)
    result = run_both("-Werror", "--junitxml=junit.xml", "-o", "junit_logging=all")
    found = {name: words(text) for name, text in reports(result).items()}
    for test in ("test_pytests", "TestUnittests.test_it"):
        assert found[f"{test} [bad]"] in (["good", "bad"], ["bad"])
        assert found[f"{test} [worse]"] == ["worse"]
    assert found["test_pytests"] == ["the rest"], "it contains failed subtests"
    assert found["test_a_death [dies]"] == ["bad"]
    assert "exited with status 3 on its own" in reports(result)["test_a_death [dies]"]
    assert "test_a_death [is dead]" not in found

    cases = {
        case.attrib["name"]: "".join(case.itertext())
        for case in ET.parse(pytester.path / "junit.xml").iter("testcase")
    }
    assert words(cases["test_pytests"]) == ["good", "bad", "worse", "the rest"]


def test_all_logs_and_none(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.cluster(workers=1, ps=0)
        def test_it(local_cluster, subtests):
            for number in range(3):
                with subtests.test(number=number):
                    local_cluster.run(print, f"words of {number}")
                    assert number != FAILING
        """
    )
    path = pytester.path / "test_all_logs_and_none.py"
    text = path.read_text()
    for failing, option, expected in (
        (1, "all", {"test_it (number=1)": ["0", "1"], "test_it": ["2"]}),
        (1, "none", {"test_it (number=1)": [], "test_it": []}),
        (3, "all", {}),
    ):
        path.write_text(text.replace("FAILING", str(failing)))
        result = run(f"--cluster-logs={option}")
        assert {name: words(text) for name, text in reports(result).items()} == expected
    assert words(result.stdout.str()) == ["0", "1", "2"], "of the test that has passed"


def test_a_kept_cluster_is_told_of_once(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.cluster(workers=1, ps=0)
        def test_it(local_cluster, subtests):
            for number in range(2):
                with subtests.test(number=number):
                    assert 0
        """
    )
    result = run("--cluster-keep=failed")
    lines = re.findall(r"^<LocalCluster .* is kept by .* down (.*)$", result.stdout.str(), re.M)
    (path,) = set(lines)
    pytester.run(sys.executable, "-m", "pytest_localcluster", "down", path, timeout=60)
    assert len(lines) == 4, "in each report, and once in the summary"
