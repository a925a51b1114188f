"""Tests that hang: where everybody is, in the report, with and without pytest-timeout."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

TESTS = """
import ctypes
import sys
import threading
import pytest
from pytest_localcluster import CommandRuntime, LocalCluster
from pytest_localcluster._clock import Deadline, poll

def stuck_in_a_lock():
    threading.Thread(target=another_thread, daemon=True).start()
    threading.Event().wait()

def another_thread():
    threading.Event().wait()

def holds_the_interpreters_lock():
    ctypes.PyDLL(None).pause()

def wait_for_the_dump(item):
    # Forever, if it does not come; but nothing else ends this test.
    assert poll(lambda: any("hang" in title for _, title, _ in item._report_sections), Deadline(40))

PROGRAM = [sys.executable, "-c", "import threading; threading.Event().wait()", "{port}"]
ALWAYS = CommandRuntime(ps=PROGRAM, ready=lambda server: True)

shared = pytest.mark.cluster(
    workers=3, ps=1, runtime={"worker": "native", "ps": ALWAYS}, scope="module"
)

@shared
def test_is_there_for_the_start_to_be_over(local_cluster):
    pass

@shared
def test_hangs(local_cluster, request):
    stuck, locked, suspended = local_cluster.workers
    stuck.submit(stuck_in_a_lock)
    locked.submit(holds_the_interpreters_lock)
    suspended.suspend()
    wait_for_the_dump(request.node)
    ENDING

def test_takes_long_without_a_cluster(request):
    threading.Event().wait(5)
    assert request.node._report_sections == []

def test_threads(request):
    with LocalCluster(workers=1, ps=0, launcher="thread"):
        wait_for_the_dump(request.node)
    ENDING
"""

DUMP = [
    "*::test_hangs has run for * s; this is where everybody is:",
    "--- <Server /job:worker/task:0 at localhost:*: running, pid *>",
    "* in another_thread",
    "* in stuck_in_a_lock",
    "    threading.Event().wait()",
    "--- <Server /job:worker/task:1 at localhost:*: running, pid *>",
    "* in holds_the_interpreters_lock",
    "--- <Server /job:worker/task:2 at localhost:*: suspended, pid *>",
    "it is suspended, and cannot say where it is: resume() it first",
    "--- <Server /job:ps/task:0 at localhost:*: running, pid *>",
    "it is no Python, which was not asked: *",
    "--- the test process, pid *",
    "MainThread:",
    "*, in wait_for_the_dump",
]
THREADS = ["it is a thread of the test process, and among the stacks of that"]


@pytest.mark.parametrize("ending", ["pass", "assert 0"])
def test_hang_dump(pytester: pytest.Pytester, run_both: Run, ending: str) -> None:
    pytester.makepyfile(TESTS.replace("ENDING", ending))
    result = run_both("--cluster-hang-dump=4")
    if ending == "pass":
        result.assert_outcomes(passed=4)
        result.stdout.no_fnmatch_line("*where everybody is*")
        return
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*_ test_hangs _*", "*Captured log of a hang call*", *DUMP])
    result.stdout.fnmatch_lines(["*_ test_threads _*", "*Captured log of a hang call*", *THREADS])
    assert result.stdout.str().count("this is where everybody is") == 2


def test_shown_at_once(pytester: pytest.Pytester, run: Run, ini: Callable[[str], object]) -> None:
    ini("cluster_hang_dump = 4\n")
    pytester.makepyfile(TESTS.replace("ENDING", "print('it goes on')"))
    result = run("-s", "-p", "no:xdist")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines([*DUMP, "it goes on", *THREADS, "it goes on"])


def test_attached_to_a_test_that_passes(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(TESTS.replace("ENDING", "pass"))
    result = run("--cluster-hang-dump=4", "-rP", "-n", "2")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*_ test_hangs _*", "*Captured log of a hang call*", *DUMP])


HANGS = """
import threading
import pytest

def stuck_in_a_lock():
    threading.Event().wait()

@pytest.mark.timeout(4, method="METHOD", func_only=True)
def test_hangs(local_cluster):
    local_cluster.ps[0].run(stuck_in_a_lock)
"""


def test_timed_out_by_a_signal(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makepyfile(HANGS.replace("METHOD", "signal"))
    result = run_both()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*Captured log of a hang call*",
            "*::test_hangs was timed out; this is where everybody is:",
            "--- <Server /job:ps/task:0 at localhost:*: running, pid *>",
            "* in stuck_in_a_lock",
        ]
    )


@pytest.mark.parametrize("capture", [[], ["-s"]], ids=["captured", "shown"])
def test_timed_out_by_a_thread(pytester: pytest.Pytester, run: Run, capture: list[str]) -> None:
    pytester.makepyfile(HANGS.replace("METHOD", "thread"))
    result = run("-p", "no:xdist", *capture)
    assert result.ret == 1
    text = result.stdout.str() + result.stderr.str()
    assert "~ Stacks of the tasks ~" in text
    assert "::test_hangs is timed out; this is where everybody is:" in text
    assert "in stuck_in_a_lock" in text
    assert "+ Timeout +" in text, "and then what pytest-timeout has to say"
