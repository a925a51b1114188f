"""``doctor``: what it finds of runs that are gone, and of clusters that run without a test."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from pytest_localcluster._cli import strays
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._context import TOKEN_VARIABLE
from tests.cli.conftest import Command, StartUp, line


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="goes by what Linux has")
def test_strays_and_their_files(up: StartUp, command: Command) -> None:
    cluster = up()
    cluster.file()
    guard = psutil.Process(cluster.process.pid).children()[0]
    (forkserver,) = guard.children()
    tasks = forkserver.children()
    before = command("doctor", TMPDIR=str(cluster.folder)).stdout
    assert not {str(guard.pid), str(forkserver.pid)} & set(line(before, "stray tasks").split())
    assert line(before, "stray files").endswith(": none")
    # Who cannot do anything cannot see that its owner is gone.
    for process in (guard, forkserver):
        process.suspend()
    cluster.end(signal.SIGKILL)
    psutil.wait_procs(tasks, 20)
    after = command("doctor", TMPDIR=str(cluster.folder)).stdout
    found = line(after, "stray tasks")
    assert found.startswith("warning ")
    assert {str(guard.pid), str(forkserver.pid)} <= set(found.split())
    assert f" {guard.pid}" in after.partition("To fix this: kill -9")[2].splitlines()[0]
    for process in (forkserver, guard):
        process.kill()
    psutil.wait_procs([guard, forkserver], 20)
    last = command("doctor", TMPDIR=str(cluster.folder)).stdout
    assert line(last, "stray files").startswith("warning ")
    folders = last.partition("To fix this: rm -r ")[2].splitlines()[0].split()
    subprocess.run(["rm", "-r", *folders], check=True)
    assert cluster.leftovers() == []


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="goes by what Linux has")
def test_a_program_that_was_a_task() -> None:
    for tf_config, is_task in (('{"task": {}}', True), ("{}", False)):
        environ = {**os.environ, TOKEN_VARIABLE: "secret", "TF_CONFIG": tf_config}
        child = subprocess.Popen(["sleep", "1000"], env=environ)
        try:
            # It was executed; that its environment can be read comes a moment later.
            assert poll(Path(f"/proc/{child.pid}/environ").read_bytes, Deadline(10))
            mine = strays._look_at(child.pid)
            assert (mine is not None) == is_task
            if mine is not None:
                assert strays._is_stray(mine, {child.pid: mine}, set())
                assert not strays._is_stray(mine, {child.pid: mine}, {os.getpid()})
        finally:
            child.kill()
            child.wait()


def test_a_cluster_that_runs_is_named(up: StartUp, command: Command) -> None:
    cluster = up()
    file = cluster.file()
    done = command("doctor", TMPDIR=str(cluster.folder))
    named = line(done.stdout, "clusters without a test")
    assert f"{file} (2 tasks)" in named
    assert "pytest_localcluster down FILE" in named
    cluster.end()
    gone = command("doctor", TMPDIR=str(cluster.folder)).stdout
    assert line(gone, "clusters without a test").endswith(": none")
