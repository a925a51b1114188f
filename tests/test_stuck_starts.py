"""What never comes up, and the process that starts tasks when it does not answer: deadlines too."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_localcluster import (
    ClusterConfig,
    ClusterError,
    CommandRuntime,
    LocalCluster,
    StartError,
    StartTimeout,
)
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._launch import process, wire


def hold_the_interpreters_lock() -> None:
    re.match("(a+)+$", "a" * 64 + "b")  # takes longer than anybody lives, and lets nobody else run


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=1, ps=1, start_timeout=20) as cluster:
        yield cluster


FEW = """
import errno
import os

fork = os.fork


def fork_some() -> int:
    if os.path.exists({enough!r}):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()


os.fork = fork_some
"""


class TestForkserver:
    """The process that forks tasks, stopped, stuck in an import or short of processes."""

    def test_who_cannot_be_forked_takes_nobody_along(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        enough = tmp_path / "enough"
        tmp_path.joinpath("few_processes.py").write_text(FEW.format(enough=str(enough)))
        monkeypatch.syspath_prepend(tmp_path)
        config = ClusterConfig(workers=1, ps=0, preload=["few_processes"])
        with LocalCluster(config) as first:
            enough.touch()
            refused = (
                r"task:0 did not start: no process could be forked for it: BlockingIOError: .*"
            )
            with pytest.raises(StartError, match=refused) as caught, LocalCluster(config):
                pass
            assert isinstance(caught.value.__cause__, BlockingIOError)
            assert "ulimit -u" in str(caught.value)
            with pytest.raises(StartError, match=refused):
                first.workers[0].restart()
            enough.unlink()
            first.workers[0].restart()
            with LocalCluster(config) as second:
                assert first.run(os.getppid) == second.run(os.getppid)

    @pytest.fixture
    def stopped(self, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> LocalCluster:
        monkeypatch.setattr(process, "_ANSWER", 1.0)
        parent = int(_status(cluster.workers[0].pid or 0)["PPid"])
        os.kill(parent, signal.SIGSTOP)
        assert poll(lambda: _status(parent)["State"].startswith("T"), Deadline(20))
        return cluster

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
    def test_suspend(self, stopped: LocalCluster) -> None:
        pids = [server.pid for server in stopped.servers]
        with pytest.raises(ClusterError, match="did not answer within 1 s") as caught:
            stopped.workers[0].suspend()
        assert "the next start has another one" in str(caught.value)
        for server in stopped.servers:  # which end with the process that starts the tasks
            server.join(20, check=False)
        assert poll(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), Deadline(20))
        stopped.stop()
        stopped.start()
        assert stopped.run(lambda: 1, timeout=20) == [1]

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
    def test_kill(self, stopped: LocalCluster) -> None:
        worker = stopped.workers[0]
        stopped.config = stopped.config.replace(stop_timeout=0.2)
        with pytest.raises(ClusterError, match=r"task:0 was not seen to end within 0.2 s of SIGK"):
            worker.kill()
        assert worker.is_alive()

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
    def test_stop(self, stopped: LocalCluster) -> None:
        pids = [server.pid for server in stopped.servers]
        stopped.workers[0].submit(hold_the_interpreters_lock)
        stopped.stop()
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []

    def test_more_requests_than_fit_before_an_import_that_hangs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tmp_path.joinpath("stuck_model.py").write_text(
            "import threading; threading.Event().wait()\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("MUCH", "x" * 100_000)  # each request carries the environment
        cluster = LocalCluster(workers=8, preload=["stuck_model"], start_timeout=4.0)
        with pytest.raises(StartTimeout, match="last seen: importing stuck_model") as caught:
            cluster.start()
        assert "stuck_model.py" in str(caught.value)


def _status(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return {
        key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }


def test_a_condition_that_never_returns() -> None:
    go = threading.Event()

    def asks_for_ever(server: object) -> bool:
        return go.wait()

    command = [sys.executable, "-c", "import threading; threading.Event().wait()", "{port}"]
    runtime = CommandRuntime(ps=command, ready=asks_for_ever)
    cluster = LocalCluster(workers=0, ps=1, runtime=runtime, start_timeout=2.0)
    with pytest.raises(StartTimeout, match="asks_for_ever has not returned"):
        cluster.start()
    go.set()


def test_a_late_task_shows_all_its_threads() -> None:
    def start() -> None:
        for number in range(3):
            threading.Thread(target=[first, second, third][number], daemon=True).start()
        threading.Event().wait()

    def first() -> None:
        threading.Event().wait()

    def second() -> None:
        threading.Event().wait()

    def third() -> None:
        time.sleep(1000)  # noqa: TID251  # it is what somebody's code is stuck in

    from tests.test_launch import Runtime

    LocalCluster(workers=1, ps=0, runtime=Runtime()).start().stop()
    cluster = LocalCluster(workers=1, ps=0, runtime=Runtime(start), start_timeout=3.0)
    with pytest.raises(StartTimeout) as caught:
        cluster.start()
    for name in ("start", "first", "second", "third"):
        assert f" in {name}\n" in str(caught.value)


def test_half_a_message_is_no_message() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(wire.pack("whole")[:-1])
        with pytest.raises(TimeoutError):
            wire.receive(ours, Deadline(0.1))
        theirs.close()
        with pytest.raises(EOFError):
            wire.receive(ours, Deadline(20))
