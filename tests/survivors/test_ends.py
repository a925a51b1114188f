"""However a run ends, nothing of its clusters is left: no process, no port, no file."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_localcluster._clock import Deadline, poll
from tests.survivors.conftest import Record, Start
from tests.survivors.runs import SECONDS, Run, family_of

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="goes by pidfds")


def note_zoo(run: Run) -> dict[str, Any]:
    """Wait until the zoo is there, and remember who is in it."""
    told = run.reached("zoo")
    # 7 processes that are tasks, 12 that these started, 3 of the program's, 2 guards (one for each
    # set of preloaded modules) with their forkservers, and pytest.
    # What was just executed has no environment yet by which to know it.
    assert poll(lambda: len(run.note()) >= 7 + 12 + 3 + 4 + 1, Deadline(SECONDS))
    assert set(told["started"]) <= set(run.note())
    assert run.listening(told["ports"])
    assert all(Path(file).is_relative_to(run.temporary) for file in told["files"])
    return told


def check_nothing_is_left(
    run: Run, told: dict[str, Any], record: Record, *, excluded: tuple[int, ...] = ()
) -> None:
    record(run.seconds_until_nobody_is_left())
    assert run.leftovers(excluded) == []
    assert not run.listening(told["ports"])


SUITE = """
import os, signal, subprocess, sys, threading
import pytest

@pytest.fixture
def shown(zoo):
    at("zoo", **zoo)

@pytest.fixture
def breaks_later():
    yield
    raise LookupError("teardown")

def wait():
    threading.Event().wait()

"""

ENDS = {
    "passes": ("def test_it(shown): pass", 0),
    "fails": ("def test_it(shown): assert 0", 1),
    "fails and is the last": ("def test_it(shown): assert 0\ndef test_not(shown): pass", 1, "-x"),
    "fails and is one too many": (
        "def test_it(shown): assert 0\ndef test_not(shown): pass",
        1,
        "--maxfail=1",
    ),
    "exits": ("def test_it(shown): sys.exit(3)", 1),
    "has pytest exit": ("def test_it(shown): pytest.exit('enough', 5)", 5),
    "os._exit": ("def test_it(shown): os._exit(9)", 9),
    "kills itself": ("def test_it(shown): os.kill(os.getpid(), 9)", -9),
    "crashes": ("def test_it(shown): os.kill(os.getpid(), signal.SIGSEGV)", -11),
    "set-up raises": (
        "@pytest.fixture\ndef breaks(shown): raise LookupError\ndef test_it(breaks): pass",
        1,
    ),
    "tear-down raises": ("def test_it(shown, breaks_later): pass", 1),
    "tear-down raises before": ("def test_it(breaks_later, shown): pass", 1),
    "times out by signal": (
        "@pytest.mark.timeout(0.5, method='signal', func_only=True)\ndef test_it(shown): wait()",
        1,
    ),
    "times out by thread": (
        "@pytest.mark.timeout(0.5, method='thread', func_only=True)\ndef test_it(shown): wait()",
        1,
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_run_ends_by_itself(start: Start, record: Record, end: str) -> None:
    suite, code, *args = ENDS[end]
    run = start(SUITE + str(suite), *map(str, args))
    told = note_zoo(run)
    run.go(told)
    check_nothing_is_left(run, told, record)
    assert run.process.wait() == code, run.output()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_is_ended_by_a_signal(start: Start, record: Record, number: signal.Signals) -> None:
    run = start(SUITE + "def test_it(shown): at('running'); wait()")
    told = note_zoo(run)
    run.go(told)
    run.reached("running")
    run.process.send_signal(number)
    check_nothing_is_left(run, told, record)
    assert run.process.wait() == (2 if number == signal.SIGINT else -number)


TEARDOWNS = {
    "another fixture's": """
@pytest.fixture
def slow(shown):
    yield
    at("tearing down")
    wait()

def test_it(slow): at("running")
""",
    "a cluster's": """
from pytest_localcluster._life import Life

def finish(life, *args, original=Life.finish):
    Life.finish = original
    at("tearing down")
    original(life, *args)

def test_it(shown): Life.finish = finish; at("running")
""",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("teardown", TEARDOWNS)
def test_a_run_is_ended_while_it_tears_down(
    start: Start, record: Record, teardown: str, number: signal.Signals
) -> None:
    run = start(SUITE + TEARDOWNS[teardown])
    told = note_zoo(run)
    run.go(told)
    run.go(run.reached("running"))
    point = run.reached("tearing down")
    run.process.send_signal(number)
    run.go(point)
    check_nothing_is_left(run, told, record)


FORKS = {
    "leaves at once": "os._exit(0)",
    "exits": "sys.exit(0)",
    "tears all down": "return",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.parametrize("child", FORKS)
def test_a_test_forks_and_its_child_ends(start: Start, record: Record, child: str) -> None:
    run = start(
        SUITE
        + f"""
def test_it(shown, local_cluster):
    pid = os.fork()
    if pid == 0:
        {FORKS[child]}
    os.waitpid(pid, 0)
    assert local_cluster.run(os.getpid) == [local_cluster.workers[0].pid]
    local_cluster.workers[0].restart()
    assert local_cluster.run(os.getpid) == [local_cluster.workers[0].pid]
"""
    )
    told = note_zoo(run)
    run.go(told)
    check_nothing_is_left(run, told, record)
    assert run.process.wait() == 0, run.output()


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), 9)", "os._exit(9)"])
def test_a_test_forks_and_its_child_lives_on(start: Start, record: Record, end: str) -> None:
    run = start(
        SUITE
        + f"""
def test_it(shown):
    at("child" if os.fork() == 0 else "parent")
    {end}
"""
    )
    told = note_zoo(run)
    run.go(told)
    both = [run.reached("child", "parent") for _ in range(2)]
    points = {point["point"]: point for point in both}
    run.go(points["parent"])
    record(run.seconds_until_nobody_is_left())
    child = psutil.Process(points["child"]["pid"])
    assert run.leftovers(excluded=[child.pid]) == []
    assert child.is_running()
    child.kill()
    psutil.wait_procs([child], SECONDS)
    assert not run.listening(told["ports"])


@pytest.mark.parametrize("end", ["by a signal", "os._exit(9)"])
def test_a_worker_of_xdist_crashes(start: Start, record: Record, end: str) -> None:
    run = start(
        SUITE
        + f"""
@pytest.mark.parametrize("n", range(2))
def test_it(shown, n):
    {"wait()" if end == "by a signal" else end}
""",
        "-n2",
        "--max-worker-restart=0",
    )
    zoos = [run.reached("zoo") for _ in range(2)]
    families = [[one.pid for one in family_of(told["pid"], told["started"])] for told in zoos]
    run.note()
    for told, family in zip(zoos, families, strict=True):
        assert set(told["started"]) <= set(family)
    for told, family in zip(zoos, families, strict=True):
        assert psutil.pid_exists(family[0]), "it went with the other worker"
        run.go(told)
        if end == "by a signal":
            os.kill(family[0], signal.SIGKILL)
        record(run.seconds_until_nobody_is_left(family))
        assert not run.listening(told["ports"])
    run.process.wait()
    record(run.seconds_until_nobody_is_left())
    assert run.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_controller_of_xdist_is_ended(
    start: Start, record: Record, number: signal.Signals
) -> None:
    run = start(SUITE + "def test_it(shown): wait()", "-n1")
    told = run.reached("zoo")
    family = [one.pid for one in family_of(told["pid"], told["started"])]
    run.note()
    run.go(told)
    run.process.send_signal(number)
    # A worker notices in its own time; a second after that, nothing of it is there.
    record(run.seconds_until_nobody_is_left(family))
    run.process.wait()
    record(run.seconds_until_nobody_is_left())
    assert run.leftovers() == []
