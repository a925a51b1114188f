"""What belongs to a task ends with it; guards and forkservers look after each other's end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from pytest_localcluster import CommandRuntime, LocalCluster, Server, ServerExited
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._launch import family, process
from pytest_localcluster._observer import observer
from tests.survivors.conftest import Record, Start
from tests.survivors.runs import SECONDS, processes_below
from tests.survivors.test_ends import SUITE, note_zoo
from tests.survivors.zoo import child_in_group, child_in_session, daemon

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux has orphans adopted"
)

STARTS = [child_in_group, child_in_session, daemon]


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, ps=0) as running:
        yield running


def start_all(server: Server) -> list[psutil.Process]:
    return [psutil.Process(server.run(start)) for start in STARTS]


def die(server: Server) -> None:
    with pytest.raises(ServerExited):
        server.run(os._exit, 3)
    server._life.forgive()


def kill_from_outside(server: Server) -> None:
    assert server.pid
    os.kill(server.pid, signal.SIGKILL)
    server.join(20)
    server._life.forgive()


@pytest.mark.parametrize("end", [Server.kill, Server.stop, Server.restart, die, kill_from_outside])
@pytest.mark.parametrize("suspended", [False, True], ids=["running", "suspended"])
def test_what_a_task_has_started_is_gone_when_its_end_is_told(
    cluster: LocalCluster, end: Callable[[Server], None], suspended: bool
) -> None:
    if suspended and end is die:
        pytest.skip("what is suspended does nothing")
    mine, other = map(start_all, cluster.workers)
    if suspended:
        cluster.workers[0].suspend()
    end(cluster.workers[0])
    assert [one for one in mine if one.is_running()] == []
    assert [one for one in other if not one.is_running()] == []
    cluster.stop()
    assert [one for one in other if one.is_running()] == []


def test_what_a_program_has_started_is_gone_with_it() -> None:
    line = "(setsid sh -c 'sleep 1000 & echo started $!; wait' &); exec sleep 1000"
    runtime = CommandRuntime(
        ps=["sh", "-c", line], ready=lambda server: "started" in server.log.text()
    )
    with LocalCluster(workers=0, ps=1, runtime=runtime) as cluster:
        (ps,) = cluster.ps
        started = psutil.Process(int(ps.log.text().split()[1]))
        assert started.is_running()
        ps.kill()
        assert not started.is_running()


def test_a_daemon_that_ends_leaves_its_task_alone(cluster: LocalCluster) -> None:
    worker = cluster.workers[0]
    left = psutil.Process(worker.run(daemon))
    assert left.ppid() == worker.pid
    left.kill()
    assert worker.run(os.getpid) == worker.pid


def test_what_a_preloaded_module_runs_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("has_helper.py").write_text(
        "import subprocess\nhelper = subprocess.Popen(['sleep', '1000'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(observer(), "run", "")  # what a run shares stays longer

    def find() -> int:
        import has_helper  # type: ignore[import-not-found]

        return int(has_helper.helper.pid)

    with LocalCluster(workers=1, ps=0, preload=["has_helper"]) as cluster:
        helper = psutil.Process(cluster.workers[0].run(find))
        cluster.workers[0].kill()
        cluster.workers[0].restart()
        assert helper.is_running()
    assert helper.is_running()
    (launcher,) = (one for one in process._launchers.values() if "has_helper" in one.preload)
    launcher.close()
    assert not helper.is_running()


def test_children_are_found_where_the_kernel_has_no_list_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen(["sleep", "1000"]) as child, ExitStack() as ended:
        ended.callback(child.kill)
        expected = {one.pid for one in psutil.Process().children()}
        assert child.pid in expected
        assert set(family.children()) == expected
        read = Path.read_bytes

        def refuse(path: Path) -> bytes:
            if path.name == "children":
                raise FileNotFoundError(path)
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", refuse)
        assert set(family.children()) == expected


ENDS = {
    "the guard is killed": [("guard", signal.SIGKILL)],
    "the forkserver is killed": [("forkserver", signal.SIGKILL)],
    "the guard is asked to end": [("guard", signal.SIGTERM)],
    "guard and pytest are killed": [("guard", signal.SIGKILL), ("pytest", signal.SIGKILL)],
    "forkserver and pytest are killed": [
        ("forkserver", signal.SIGKILL),
        ("pytest", signal.SIGKILL),
    ],
    "pytest is killed when the forkserver is suspended": [
        ("forkserver", signal.SIGSTOP),
        ("pytest", signal.SIGKILL),
    ],
    "pytest is killed when the guard is suspended": [
        ("guard", signal.SIGSTOP),
        ("pytest", signal.SIGKILL),
    ],
}


@pytest.mark.parametrize("end", ENDS)
def test_one_of_the_family_dies(start: Start, record: Record, end: str) -> None:
    run = start(SUITE + "def test_it(shown): at('running')")
    told = note_zoo(run)
    task = psutil.Process(told["started"][len(STARTS) * 4])
    forkserver = task.parent()
    assert forkserver
    guard = forkserver.parent()
    assert guard
    assert guard.ppid() == run.process.pid
    whole = [one.pid for one in processes_below(guard.pid)]
    assert {*told["started"][: len(STARTS) * 4]} < {*whole}
    family = {"guard": guard, "forkserver": forkserver, "pytest": psutil.Process(run.process.pid)}
    for who, number in ENDS[end]:
        family[who].send_signal(number)
    record(run.seconds_until_nobody_is_left(whole))
    run.go(told)
    if len(ENDS[end]) == 1:
        run.go(run.reached("running"))
    record(run.seconds_until_nobody_is_left())
    left = run.in_sight()
    if end == "guard and pytest are killed":
        left = [what for what in left if not what.startswith("pytest-localcluster-")]
    assert left == []


ELSEWHERE = """
import os, sys
from pytest_localcluster._launch import family
family._prctl, family.ADOPTS = None, False
del os.pidfd_open, os.waitid
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_where_nothing_is_adopted_tasks_and_their_groups_end(
    start: Start, number: signal.Signals, tmp_path: Path
) -> None:
    # As good as a Linux can tell of a system that lacks all this.
    tmp_path.joinpath("sitecustomize.py").write_text(ELSEWHERE)
    run = start(
        SUITE
        + """
from tests.survivors.zoo import child_in_group

def test_it(local_cluster):
    local_cluster.workers[0].run(child_in_group)
    local_cluster.ps[0].suspend()
    at("running")
    wait()
""",
        PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]),
    )
    run.go(run.reached("running"))
    # What was just executed has no environment yet by which to know it.
    assert poll(lambda: len(run.note()) == 6, Deadline(SECONDS))
    run.process.send_signal(number)
    run.seconds_until_nobody_is_left()
    assert run.leftovers() == []


WAIT = """
import subprocess
from pytest_localcluster._clock import Deadline
from pytest_localcluster._launch import family

subprocess.Popen(["sleep", "1000"])
kill, family.kill = family.kill, lambda pid: None
assert not family.kill_all([], Deadline(0.1))
family.kill = kill
assert family.kill_all([], Deadline(20))
assert family.children() == []
"""


def test_the_wait_for_what_does_not_die_ends() -> None:
    # In a process of its own, since it waits for whatever child there is.
    subprocess.run([sys.executable, "-c", WAIT], check=True)


def test_warnings_that_are_errors_do_not_end_forks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Python 3.15 on a fork beside a thread raises where the warning of it is an error."""
    lines = [
        "import threading, warnings",
        "warnings.simplefilter('error')",
        "threading.Thread(target=threading.Event().wait, daemon=True).start()",
    ]
    (tmp_path / "thready.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    with LocalCluster(workers=2, ps=0, preload=["thready"]) as cluster:
        cluster.workers[0].restart()
        assert cluster.run(int, "3") == [3, 3]
