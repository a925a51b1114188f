"""What a red test's report tells of chaos()."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

SUITE = """
import pytest
from pytest_localcluster._clock import Deadline, poll

pytestmark = pytest.mark.cluster(workers=1, ps=1, scope="module")

def disturb(cluster, seed):
    with cluster.chaos(seed, every=0.01) as chaos:
        assert poll(lambda: len(chaos.happened) >= 3, Deadline(60))

def test_green(local_cluster):
    disturb(local_cluster, "of the green one")

def test_red(local_cluster):
    disturb(local_cluster, 4711)
    assert 0

def test_red_without(local_cluster):
    assert 0
"""


def test_a_red_report_has_the_seed_and_what_happened(
    pytester: pytest.Pytester, run_both: Run
) -> None:
    pytester.makepyfile(SUITE)
    result = run_both("--tb=short")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*_ test_red _*",
            "*Captured log of chaos call*",
            "chaos(seed=4711, kinds=('kill', 'suspend'), every=0.01): *",
            *itertools.repeat("* s  after 0.0* s: * /job:*/task:0, for 0.0* s; undone by * s", 3),
            "*_ test_red_without _*",
        ]
    )
    result.stdout.no_fnmatch_line("*of the green one*")
    assert result.stdout.str().count("Captured log of chaos") == 1


LONG = """
import pytest
from pytest_localcluster import LocalCluster
from pytest_localcluster._clock import Deadline, poll

@pytest.fixture(scope="module")
def disturbed():
    with LocalCluster() as cluster, cluster.chaos(4711, every=0.01) as chaos:
        yield chaos

def happened(chaos, count):
    return poll(lambda: len(chaos.happened) >= count, Deadline(60))

def test_first(disturbed):
    assert happened(disturbed, 3)

def test_second(disturbed):
    assert not happened(disturbed, len(disturbed.happened) + 2)

def test_third(disturbed):
    assert happened(disturbed, 6)
"""


def test_a_chaos_of_many_tests_is_told_of_from_where_the_test_began(
    pytester: pytest.Pytester, run_both: Run
) -> None:
    pytester.makepyfile(LONG)
    result = run_both("--tb=short")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*_ test_second _*",
            "*Captured log of chaos call*",
            "chaos(seed=4711, *",
            "  ([1-9]* before that)",
            "*s  after 0.0* s: * /job:*/task:0, for 0.0* s*",
        ]
    )
