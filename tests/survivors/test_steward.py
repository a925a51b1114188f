"""The cluster of a run outlives any of its workers, and none of them all."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import pytest

from pytest_localcluster._clock import Deadline, poll
from tests.survivors.conftest import Record, Start
from tests.survivors.runs import SECONDS, Run

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="goes by pidfds")

SUITE = """
import os, signal, subprocess, sys, threading
import pytest
from pytest_localcluster._steward import link

@pytest.fixture
def shown(local_cluster):
    children = [server.run(child_in_session) for server in local_cluster.servers]
    tasks = [server.pid for server in local_cluster.servers]
    at("shared", tasks=tasks, children=children, steward=local_cluster._steward.pid)

pytestmark = pytest.mark.cluster(workers=2, scope="run")
"""

EACH = """
@pytest.mark.parametrize("n", range(2))
def test_it(shown, n):
    {}
"""


def shared(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Wait until two workers use the cluster; remember who there is, and return what they tell."""
    one, other = (run.reached("shared") for _ in range(2))
    assert one["tasks"] == other["tasks"]
    assert one["steward"] == other["steward"]
    expected = {*one["tasks"], *one["children"], *other["children"], one["steward"]}
    # Amid its exec a process shows no environment, and so is nobody's.
    assert poll(lambda: expected <= {*run.note()}, Deadline(SECONDS))
    return one, other


def test_a_run_is_killed(start: Start, record: Record) -> None:
    run = start(SUITE + EACH.format("pass"), "-n2")
    one, other = shared(run)
    for pid in (run.process.pid, one["pid"], other["pid"]):
        os.kill(pid, signal.SIGKILL)
    record(run.seconds_until_nobody_is_left())
    assert run.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_is_ended_by_a_signal(start: Start, number: signal.Signals) -> None:
    run = start(SUITE + EACH.format("threading.Event().wait()"), "-n2")
    for told in shared(run):
        run.go(told)
    run.process.send_signal(number)
    run.seconds_until_nothing_is_left()  # xdist leaves its workers their time
    assert run.leftovers() == []


def test_workers_are_killed_one_after_the_other(start: Start, record: Record) -> None:
    run = start(SUITE + EACH.format("pass"), "-n2", "--max-worker-restart=0")
    one, other = shared(run)
    tasks = [psutil.Process(pid) for pid in (*one["tasks"], *one["children"])]
    os.kill(one["pid"], signal.SIGKILL)
    run.seconds_until_nobody_is_left([one["pid"]])
    assert all(task.is_running() for task in tasks), "they went with the first worker"
    os.kill(other["pid"], signal.SIGKILL)
    family = (other["pid"], one["steward"], *one["tasks"], *one["children"], *other["children"])
    record(run.seconds_until_nobody_is_left(family))
    assert run.seconds_until_nothing_is_left() >= 0
    assert run.leftovers() == []


def test_a_fork_of_the_last_worker_lives_on(start: Start, record: Record) -> None:
    fork = 'at("child" if os.fork() == 0 else "parent")'
    run = start(SUITE + "def test_it(shown): " + fork, "-n1", "--max-worker-restart=0")
    told = run.reached("shared")
    run.note()
    run.go(told)
    both = [run.reached("child", "parent") for _ in range(2)]
    points = {point["point"]: point["pid"] for point in both}
    os.kill(points["parent"], signal.SIGKILL)
    record(run.seconds_until_nobody_is_left([points["parent"], told["steward"], *told["tasks"]]))
    child = psutil.Process(points["child"])
    assert child.is_running()
    child.kill()


def test_the_steward_is_killed(start: Start, record: Record) -> None:
    run = start(SUITE + EACH.format("pass"), "-n2")
    one, other = shared(run)
    os.kill(one["steward"], signal.SIGKILL)
    family = (one["steward"], *one["tasks"], *one["children"], *other["children"])
    record(run.seconds_until_nobody_is_left(family))
    for told in (one, other):
        run.go(told)
    run.seconds_until_nothing_is_left()
    assert run.process.wait() == 1
    assert "ended with the steward of this run" in run.output()
    assert run.leftovers() == []


STARTER = """
def start(listener, original=link._start):
    {}
    original(listener)
    {}
link._start = start
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_starts_the_steward_is_killed(start: Start, when: str) -> None:
    # With a name that nobody serves yet, or with a steward that nobody has connected to.
    kill = """
    try:
        os.mkdir("killed")
    except FileExistsError:
        pass
    else:
        os.kill(os.getpid(), signal.SIGKILL)
    """
    which = STARTER.format(*((kill, "") if when == "before" else ("", kill)))
    run = start(SUITE + which + "def test_it(local_cluster): local_cluster.run(os.getpid)", "-n2")
    assert run.process.wait(100) == 0, run.output()
    run.seconds_until_nothing_is_left()
    assert run.leftovers() == []
