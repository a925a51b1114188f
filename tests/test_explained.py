"""What is said of a death: the stack of a crash, and what tells of a kill for want of memory."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from pytest_localcluster import LocalCluster, ServerExited
from pytest_localcluster._launch import oom
from pytest_localcluster._launch.handle import ChildProcess


def crash(number: int) -> None:
    for line in range(50):
        print("line", line)
    for _ in range(4):  # their stacks make the report longer than the lines that are shown else
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_shows_its_stack(number: signal.Signals) -> None:
    with LocalCluster(workers=1, ps=0) as cluster:
        with pytest.raises(ServerExited) as caught:
            cluster.workers[0].run(crash, int(number))
        report = str(caught.value)
    assert f"/job:worker/task:0 was killed by {number.name}" in report
    assert "| line 49\n" in report
    assert "| line 29\n" not in report, "the last lines, not all of them"
    assert "| Fatal Python error: " in report
    assert " in crash\n" in report
    assert "|     os.kill(os.getpid(), number)\n" in report, "with the source"


def test_a_crash_of_before_a_restart_is_not_shown_again() -> None:
    with LocalCluster(workers=1, ps=0) as cluster:
        with pytest.raises(ServerExited):
            cluster.workers[0].run(crash, int(signal.SIGSEGV))
        cluster.workers[0].restart()
        with pytest.raises(ServerExited) as caught:
            cluster.workers[0].run(os._exit, 3)
    assert "exited with status 3" in str(caught.value)
    assert "Fatal Python error" not in str(caught.value)


def test_a_kill_that_nobody_here_sent_has_a_hint() -> None:
    with LocalCluster(workers=1, ps=0) as cluster:
        with pytest.raises(ServerExited, match="dmesg would say so") as caught:
            cluster.workers[0].run(lambda: os.kill(os.getpid(), signal.SIGKILL))
        cluster.workers[0].restart()
        future = cluster.workers[0].submit(lambda: threading.Event().wait())
        cluster.workers[0].kill()
        with pytest.raises(ServerExited) as asked:
            future.result(20)
    assert "for want of memory" not in str(caught.value)
    assert "dmesg" not in str(asked.value), "whoever called kill() knows"


V2 = "low 0\nhigh 12\nmax 7\noom 2\noom_kill {}\noom_group_kill 0\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
VMSTAT = "nr_free_pages 817\noom_kill {}\nnuma_pte_updates 0\n"


@pytest.mark.parametrize("text", [V2, V1, VMSTAT], ids=["v2", "v1", "vmstat"])
def test_what_the_kernel_counts_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    file = tmp_path / "counts"
    file.write_text(text.format(3))
    monkeypatch.setattr(oom, "_lately", None)
    monkeypatch.setattr(oom, "_files", lambda: (str(file), str(tmp_path / "absent")))

    def die() -> None:
        file.write_text(text.format(4))  # as the kernel does when it kills
        os.kill(os.getpid(), signal.SIGKILL)

    with LocalCluster(workers=1, ps=0) as cluster, pytest.raises(ServerExited) as caught:
        cluster.workers[0].run(die)
    assert f"probably for want of memory: oom_kill in {file} went from 3 to 4" in str(caught.value)
    assert "give the tests more memory" in str(caught.value)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts in /proc")
def test_the_kernel_tells_what_it_counts() -> None:
    assert "/proc/vmstat" in oom._files()
    assert oom.risen(oom.counts()) == ""
    assert all(Path(path).exists() for path in oom.counts())


def test_a_thread_has_no_such_end() -> None:
    with LocalCluster(workers=1, ps=0, launcher="thread") as cluster:
        process = cluster.workers[0]._life.process
        assert process is not None
        assert process.out_of_memory() == ""


def test_who_is_restarted_while_somebody_looks_has_not_died_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A chaos restarts what it has killed in a thread of its own, when a test ends as well."""
    read = ChildProcess.exitcode
    assert isinstance(read, property)
    assert read.fget is not None
    restarts = []

    def read_late(process: ChildProcess) -> int | None:
        code: int | None = read.fget(process)
        if code is not None and not restarts:
            restarts.append(code)
            worker.restart()
        return code

    with LocalCluster(workers=1, ps=0) as cluster:
        (worker,) = cluster.workers
        worker.kill()
        monkeypatch.setattr(ChildProcess, "exitcode", property(read_late))
        assert worker.unexpected_death() is None
        assert restarts == [-signal.SIGKILL]
        assert worker.is_alive()
