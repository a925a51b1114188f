"""Whenever a run is killed, nothing is left: while it starts clusters, and while it stops them."""

from __future__ import annotations

import os
import signal

import pytest

from tests.survivors.conftest import Record, Start

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="goes by pidfds")

AROUND = """
import importlib
from tests.survivors.zoo import at

def reach(point, module, name, *, after=False):
    *parts, name = name.split(".")
    home = importlib.import_module("pytest_localcluster." + module)
    for part in parts:
        home = getattr(home, part)
    original = getattr(home, name)
    def act(*args, **kwargs):
        if not after:
            at(point)
        result = original(*args, **kwargs)
        if after:
            at(point)
        return result
    setattr(home, name, act)
"""

TEST = """
import pytest

@pytest.mark.cluster(preload=["ahead"], stop_timeout=1)
def test_it(local_cluster):
    pass
"""

IN_PYTEST = {
    "a guard was started": "'_launch.shelter', 'start_guard', after=True",
    "a folder was made": "'_launch.shelter', 'new_folder', after=True",
    "a task is asked for": "'_launch.process', 'ProcessLauncher.request'",
    "a task was asked for": "'_launch.process', 'ProcessLauncher.request', after=True",
    "all tasks are up": "'_cluster', 'stop_at_exit', after=True",
    "tasks are asked to stop": "'_life', 'Life.ask_to_stop'",
    "tasks were asked to stop": "'_life', 'Life.ask_to_stop', after=True",
    "the forkserver is ended": "'_launch.process', 'ProcessLauncher.close'",
    "the forkserver was ended": "'_launch.process', 'ProcessLauncher.close', after=True",
    "all was ended": "'_launch.shelter', 'shutdown', after=True",
}

IN_FORKSERVER = {
    "it imports": "at('it imports')",
    "a task was forked": "reach('a task was forked', '_launch.child', 'come_apart')",
    "a task has settled": "reach('a task has settled', '_launch.child', 'adopt')",
    "a task serves": "reach('a task serves', '_launch.child', 'Child.tell')",
    "a task ended": "reach('a task ended', '_launch.forkserver', '_reaped')",
}


@pytest.mark.parametrize("launcher", ["process", "thread"])
@pytest.mark.parametrize("point", IN_PYTEST)
def test_it_is_killed_when(start: Start, record: Record, point: str, launcher: str) -> None:
    if launcher == "thread" and "'_launch.process'" in IN_PYTEST[point]:
        pytest.skip("nobody forks tasks that are threads")
    suite = f"{AROUND}\nreach({point!r}, {IN_PYTEST[point]})\n{TEST}"
    run = start(suite, f"--cluster-launcher={launcher}")
    run.reached(point)
    run.note()
    run.process.send_signal(signal.SIGKILL)
    record(run.seconds_until_nobody_is_left())
    assert run.leftovers() == []


@pytest.mark.parametrize("point", IN_FORKSERVER)
def test_it_is_killed_when_the_forkserver_finds_that(
    start: Start, record: Record, point: str
) -> None:
    run = start(TEST, ahead=f"{AROUND}\n{IN_FORKSERVER[point]}\n")
    run.reached(point)
    assert len(run.note()) >= 3
    run.process.send_signal(signal.SIGKILL)
    record(run.seconds_until_nobody_is_left())
    assert run.leftovers() == []


def test_its_sockets_end_before_it_does(start: Start, record: Record) -> None:
    # As they do when a process dies; on a busy machine its own end may come a good while later.
    run = start(
        TEST.replace(
            "    pass",
            """
    import os, psutil, socket
    from pytest_localcluster._launch import process
    (launcher,) = process._launchers.values()
    (forkserver,) = psutil.Process(launcher._server.pid).children()
    ended = os.pidfd_open(forkserver.pid)
    at("up")
    launcher._control.shutdown(socket.SHUT_RDWR)
    select.select([ended], [], [])
    os.kill(os.getpid(), 9)
""",
        ).replace("import pytest", "import pytest, select\nfrom tests.survivors.zoo import at")
    )
    told = run.reached("up")
    run.note()
    run.go(told)
    record(run.seconds_until_nobody_is_left())
    assert run.leftovers() == []
