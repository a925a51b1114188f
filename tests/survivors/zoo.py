"""Imported by the suites that are ended: clusters of every kind that is hard to end.

A suite tells the test that runs it, over a FIFO, that it has come to a point, and goes on when it
is told to over another. So whatever ends it does so where it shall.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_localcluster import CommandRuntime, LocalCluster
from pytest_localcluster._clock import Deadline, poll

__all__ = [
    "DEAF_PROGRAM",
    "CommandRuntime",
    "LocalCluster",
    "at",
    "be_deaf",
    "child_in_group",
    "child_in_session",
    "daemon",
    "zoo",
]

DEAF_PROGRAM = """
trap '' TERM
sh -c 'sleep 1000 & wait' &
setsid sh -c 'sleep 1000 & wait' &
echo up
while :; do wait; done
"""


def at(point: str, **facts: Any) -> None:
    """Tell the test that this point is reached, and wait until it says go."""
    told = Path(os.environ["REACHED"])
    go = told.with_name(f"go-{os.getpid()}")
    if not go.exists():
        os.mkfifo(go)
    line = json.dumps({"point": point, "pid": os.getpid(), "go": str(go), **facts}) + "\n"
    for file, act in (
        (told, lambda fd: os.write(fd, line.encode())),
        (go, lambda fd: os.read(fd, 1)),
    ):
        fd = os.open(file, os.O_RDWR)  # which does not wait for the other end
        act(fd)
        os.close(fd)


def child_in_group() -> int:
    return subprocess.Popen(["sleep", "1000"]).pid


def child_in_session() -> int:
    return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid


def daemon() -> int:
    """Leave a process behind whose parents are all dead, in a session of its own."""
    # A shell forks it: where Python forks twice, gRPC's handlers can wait for ever in the second.
    command = "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!"
    told = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, check=True).stdout
    pid = int(told)
    assert poll(lambda: os.getsid(pid) == pid, Deadline(20))
    return pid


def be_deaf() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def hold_the_gil(file: str) -> None:
    Path(file).touch()
    while True:
        ctypes.PyDLL(None).pause()  # a PyDLL's functions are called without letting go of it


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Processes, threads and programs that would not end by themselves; who and where they are."""
    with (
        LocalCluster(workers=5, ps=1, stop_timeout=1) as tasks,
        LocalCluster(workers=1, ps=1, launcher="thread") as threads,
        LocalCluster(
            workers=0,
            ps=0,
            jobs={"deaf": 1},
            stop_timeout=1,
            runtime=CommandRuntime(
                deaf=["sh", "-c", DEAF_PROGRAM],
                ready=lambda server: "up" in server.log.text(),
            ),
        ) as programs,
    ):
        plain, deaf, suspended, stopped, holder = tasks.workers
        started = [
            server.run(start)
            for server in (plain, deaf, suspended, stopped)
            for start in (child_in_group, child_in_session, daemon)
        ]
        deaf.run(be_deaf)
        suspended.suspend()
        assert stopped.pid
        os.kill(stopped.pid, signal.SIGSTOP)
        holding = tmp_path / "holding"
        holder.submit(hold_the_gil, str(holding))
        assert poll(holding.exists, Deadline(20))
        everyone = [*tasks.servers, *threads.servers, *programs.servers]
        yield {
            "started": [*started, *(server.pid for server in everyone)],
            "ports": [int(server.address.rpartition(":")[2]) for server in everyone],
            "files": [str(server.log.path) for server in everyone],
        }
