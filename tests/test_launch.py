"""Launchers with runtimes that misbehave: every way not to come up, and its report."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import termios
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_localcluster import (
    ClusterSpec,
    LocalCluster,
    PortError,
    ServerExited,
    StartError,
    StartTimeout,
    StopError,
    Task,
    _cluster,
    _lives,
    _runtimes,
    current_task,
)
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._context import TaskContext
from pytest_localcluster._launch import Entry
from pytest_localcluster._launch.handle import ChildProcess
from pytest_localcluster._launch.process import ProcessLauncher
from pytest_localcluster._launch.wire import STATUS, send
from pytest_localcluster._life import Life
from pytest_localcluster._lives import wait_all_ready
from pytest_localcluster._logs import TaskLog
from pytest_localcluster._runtimes import Assignment
from pytest_localcluster._terminal import terminal
from pytest_localcluster._warned import Filters
from tests.idle import Serving

LAUNCHERS = ["process", "thread"]
TASK = Task("ps", 0)


@dataclass(frozen=True)
class Runtime(_runtimes.Runtime):
    """Serves nothing, after doing what it is told to."""

    act: Any = None
    preload: tuple[str, ...] = ()  # type: ignore[misc]  # here each has its own
    only: Task | None = field(default=None)

    start_timeout = 20.0
    resets_in_place = True

    def serve(self, assignment: Assignment) -> Serving:
        if self.act is not None and self.only in (None, assignment.context.task):
            self.act()
        return Serving()


def test_a_task_is_not_ready_before_its_pid_is_known(tmp_path: Path) -> None:
    """On a busy machine a task may be up before the forkserver has told whom it forked."""
    context = TaskContext(TASK, ClusterSpec({"ps": ["localhost:1"]}), "grpc://localhost:1", {})
    entry = Entry(Serving, context, Deadline(20), terminal())
    control, task_end = socket.socketpair()
    status, forkserver_end = os.pipe()
    launcher = ProcessLauncher((), {})
    process = ChildProcess(
        launcher, 0, entry, TaskLog(tmp_path / "log"), control, status, Filters()
    )
    with task_end:
        send(task_end, ("ready", 4711))
        assert not process.come_up()
        assert process.news() == [status], "what to wait for is the pid"
        os.write(forkserver_end, STATUS.pack(4711))
        assert process.come_up()
        assert process.pid == 4711
        os.write(forkserver_end, STATUS.pack(0))
        os.close(forkserver_end)
        process.close(Deadline(20))


def broken() -> None:
    print("about to break")
    raise LookupError("no such model")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_an_exception_while_starting(launcher: str) -> None:
    runtime = Runtime(broken, only=Task("worker", 0))
    cluster = LocalCluster(workers=1, ps=1, launcher=launcher, runtime=runtime)
    with pytest.raises(StartError, match="did not start: LookupError: no such model") as caught:
        cluster.start()
    assert caught.value.task == "/job:worker/task:0"
    assert caught.value.address == cluster.servers[0].address
    assert isinstance(caught.value.__cause__, LookupError)
    assert "raise LookupError" in str(caught.value)
    assert not any(server.is_alive() for server in cluster.servers)


def test_an_import_error_of_a_preloaded_module() -> None:
    cluster = LocalCluster(runtime=Runtime(), preload=["no_such_module_anywhere"])
    with pytest.raises(StartError, match="No module named 'no_such_module_anywhere'") as caught:
        cluster.start()
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert "imported 'no_such_module_anywhere' ahead" in caught.value.__cause__.__notes__[0]


def test_an_import_error_of_a_module_that_a_preloaded_one_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("needs_more.py").write_text("import surely_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StartError, match="No module named 'surely_missing'") as caught:
        LocalCluster(runtime=Runtime(), preload=["needs_more"]).start()
    assert "needs_more.py" in str(caught.value)


def test_a_task_that_exits_while_starting() -> None:
    cluster = LocalCluster(runtime=Runtime(lambda: os._exit(7)))
    with pytest.raises(StartError, match=r"did not start: it exited with status 7") as caught:
        cluster.start()
    assert isinstance(caught.value.__cause__, ServerExited)
    assert caught.value.__cause__.exitcode == 7


def test_a_task_that_crashes_while_starting_shows_its_stack() -> None:
    cluster = LocalCluster(runtime=Runtime(lambda: os.kill(os.getpid(), signal.SIGSEGV)))
    with pytest.raises(StartError, match="did not start: it was killed by SIGSEGV") as caught:
        cluster.start()
    assert "Fatal Python error: Segmentation fault" in str(caught.value)


@pytest.fixture
def warm() -> None:
    """Have the forkserver up, so that a short timeout is about the task alone."""
    LocalCluster(workers=1, ps=0, runtime=Runtime()).start().stop()


@pytest.mark.usefixtures("warm")
def test_a_task_that_hangs_while_starting_shows_its_stacks() -> None:
    hang = Runtime(lambda: threading.Event().wait(), only=Task("ps", 0))
    cluster = LocalCluster(runtime=hang, start_timeout=2.0)
    with pytest.raises(StartTimeout, match="/job:ps/task:0 was not ready after 2 s") as caught:
        cluster.start()
    report = str(caught.value)
    assert "still alive" in report
    assert "threading.Event().wait()" in report, "the stack shows the source line"
    assert "--cluster-start-timeout" in report
    assert caught.value.pid == cluster.ps[0].pid
    assert not any(server.is_alive() for server in cluster.servers)


def test_a_thread_that_hangs_while_starting_cannot_be_stopped_and_says_so() -> None:
    go = threading.Event()
    hang = Runtime(go.wait, only=Task("ps", 0))
    cluster = LocalCluster(runtime=hang, start_timeout=1.0, launcher="thread")
    with pytest.raises(StopError, match="would not stop: its start does not end") as caught:
        cluster.start()
    assert caught.value.survivors == ("/job:ps/task:0",)
    assert isinstance(caught.value.__context__, StartTimeout)
    assert "threading.py" in str(caught.value.__context__)
    go.set()


def test_a_preloaded_module_that_hangs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("slow_model.py").write_text("import threading; threading.Event().wait()\n")
    monkeypatch.syspath_prepend(tmp_path)
    cluster = LocalCluster(runtime=Runtime(), preload=["slow_model"], start_timeout=4.0)
    with pytest.raises(StartTimeout, match="last seen: importing slow_model") as caught:
        cluster.start()
    assert "slow_model.py" in str(caught.value)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_death_is_told_at_once_whoever_else_hangs(launcher: str) -> None:
    hanging = threading.Event()
    runtimes = {"worker": Runtime(hanging.wait), "ps": Runtime(broken)}
    if launcher == "process":  # an event of this process would not be heard there
        runtimes["worker"] = Runtime(lambda: threading.Event().wait())
    # Nobody waits for the deadline: it is beyond what this test may take.
    cluster = LocalCluster(runtime=runtimes, start_timeout=600.0, launcher=launcher)
    expected = StartError if launcher == "process" else StopError  # a thread stays behind
    with pytest.raises(expected) as caught:
        cluster.start()
    error = caught.value if launcher == "process" else caught.value.__context__
    assert "/job:ps/task:0 did not start: LookupError: no such model" in str(error)
    hanging.set()


@pytest.mark.usefixtures("warm")
def test_a_task_that_was_dead_before_anybody_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die_later() -> None:
        threading.Thread(target=lambda: (opened.read_text(), os._exit(9))).start()

    def look_late(lives: Sequence[Life], deadline: Deadline) -> None:
        process = lives[0].process
        assert isinstance(process, ChildProcess)
        assert process._control.readable(deadline), "it serves"
        opened.write_text("go")
        size, status = array("i", [0]), process._fate.pipe
        assert status is not None

        def is_buried() -> bool:
            fcntl.ioctl(status, termios.FIONREAD, size)
            return size[0] == 2 * STATUS.size

        assert poll(is_buried, deadline)
        wait_all_ready(lives, deadline)

    opened = tmp_path / "fifo"
    os.mkfifo(opened)
    monkeypatch.setattr(_cluster, "wait_all_ready", look_late)
    cluster = LocalCluster(workers=1, ps=0, runtime=Runtime(die_later))
    with pytest.raises(StartError, match="did not start: it exited with status 9"):
        cluster.start()


@pytest.mark.usefixtures("warm")
def test_a_task_that_dies_when_it_serves_ends_the_start_of_others(tmp_path: Path) -> None:
    def die_later() -> None:
        threading.Thread(target=lambda: (opened.read_text(), os._exit(9))).start()

    def hang() -> None:
        opened.write_text("the other one serves, or is about to")
        threading.Event().wait()

    opened = tmp_path / "fifo"
    os.mkfifo(opened)
    runtimes = {"worker": Runtime(die_later), "ps": Runtime(hang)}
    cluster = LocalCluster(runtime=runtimes, start_timeout=600.0)
    with pytest.raises(StartError, match="did not start: it exited with status 9") as caught:
        cluster.start()
    assert caught.value.task == "/job:worker/task:0"
    assert cluster.workers[0].unexpected_death() is None, "the error has told of it"


def test_a_refused_bind_is_tried_once_more_with_fresh_ports(tmp_path: Path) -> None:
    marker = tmp_path / "refused"

    def refuse_once() -> None:
        if not marker.exists():
            marker.touch()
            raise PortError("the address is taken")

    with LocalCluster(workers=1, ps=0, runtime=Runtime(refuse_once)) as cluster:
        assert marker.exists()
        assert cluster.workers[0].is_alive()


def test_a_start_has_all_the_time_while_somebody_debugs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lives, "in_use", lambda: True)
    with LocalCluster(workers=1, ps=0, runtime=Runtime(), start_timeout=1e-9):
        pass


def test_a_second_refusal_is_an_error() -> None:
    def refuse() -> None:
        raise PortError("the address is taken")

    with pytest.raises(StartError, match="PortError: the address is taken"):
        LocalCluster(workers=1, ps=0, runtime=Runtime(refuse)).start()


def test_the_forkserver_is_replaced_when_it_dies() -> None:
    from pytest_localcluster._launch import process

    with LocalCluster(workers=1, ps=0, runtime=Runtime()) as cluster:
        server = process._launchers[(), frozenset()]._server
        assert server is not None
        server.send_signal(signal.SIGKILL)
        assert cluster.workers[0].join(10) == -signal.SIGKILL
    with LocalCluster(workers=1, ps=0, runtime=Runtime()) as cluster:
        assert cluster.workers[0].is_alive()


def test_reports_name_signals_and_statuses() -> None:
    from pytest_localcluster._launch.reports import describe_exit

    assert describe_exit(-11) == "was killed by SIGSEGV"
    assert describe_exit(3) == "exited with status 3"
    assert describe_exit(None) == "ended, exit status unknown"


def test_outside_a_task_there_is_no_current_task() -> None:
    with pytest.raises(RuntimeError, match="no task runs here"):
        current_task()
