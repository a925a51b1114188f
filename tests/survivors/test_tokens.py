"""A cluster's token is seen nowhere: in no report, log, repr or list of processes."""

from __future__ import annotations

import itertools
from pathlib import Path

import psutil
import pytest

from pytest_localcluster import LocalCluster, ServicerRuntime, current_task
from pytest_localcluster._context import TOKEN_VARIABLE
from tests.survivors.conftest import Start
from tests.survivors.runs import everybody

RED = """
import os
import pytest
from pytest_localcluster import (
    LocalCluster, Variable, constant, current_task, device, function, placeholder
)

@pytest.fixture(params=["process", "thread"])
def cluster(request):
    with LocalCluster(workers=2, launcher=request.param) as cluster:
        tell(cluster)
        yield cluster

def tell(cluster):
    with open(os.environ["TOKENS"], "a") as file:
        file.write(f"{cluster._token!s}\\n")

def test_a_function(cluster):
    def fail():
        context = current_task()
        print(context)
        raise LookupError(str(context))
    cluster.workers[0].run(fail)

def test_a_step(cluster):
    with device("/job:ps/task:0"):
        x = function(int)("no number")
    session = cluster.session()
    session.run(x)

def test_an_unknown_device(cluster):
    with device("/job:ps/task:7"):
        x = constant(1) + 1
    cluster.session().run(x)

def test_a_death(cluster):
    if not cluster.config.launcher == "process":
        pytest.skip("a thread has no death")
    cluster.workers[1].run(os._exit, 3)

def test_a_wait(cluster):
    with cluster.session() as session:
        session.run(function(wait)(), timeout=0.3)

def wait():
    import time
    time.sleep(1)

def test_what_joins_gets(cluster):
    joining, task = cluster.environ(), cluster.environ("/job:ps/task:0")
    entry = cluster.servers[0]._life.place
    assert 0

def test_a_start():
    def boom(task):
        tell(cluster)
        raise LookupError
    cluster = LocalCluster(workers=1, env=boom)
    cluster.start()

def test_a_start_in_the_task(tmp_path):
    cluster = LocalCluster(workers=1, preload=["no_such_module"])
    tell(cluster)
    cluster.start()

def test_a_program():
    from pytest_localcluster import CommandRuntime
    cluster = LocalCluster(
        workers=0, ps=1, start_timeout=0.5, runtime=CommandRuntime(ps=["sleep", "1000"])
    )
    tell(cluster)
    cluster.start()

def test_a_wrong_token(cluster):
    from pytest_localcluster import Session
    with Session(cluster.workers[0].target, token="wrong") as session:
        session.run(constant(1) + 1)
"""


def test_a_red_run_does_not_show_it(start: Start, tmp_path: Path) -> None:
    tokens, report, logs = tmp_path / "tokens", tmp_path / "report.xml", tmp_path / "logs"
    run = start(
        RED,
        "--full-trace",
        "--showlocals",
        "-vv",
        "-rA",
        "--cluster-logs=all",
        f"--cluster-log-dir={logs}",
        f"--junitxml={report}",
        "-ojunit_logging=all",
        TOKENS=str(tokens),
    )
    run.seconds_until_nobody_is_left()
    known = tokens.read_text().split()
    assert len(known) >= 13, run.output()
    assert all(len(token) == 32 for token in known)
    printed = {"output": run.output(), "report": report.read_text()}
    files = [file for file in logs.rglob("*") if file.is_file()]
    assert files
    printed |= {str(file): file.read_text() for file in files}
    assert "<the token of a cluster>" in printed["output"], "locals are not shown at all"
    assert [
        (where, line)
        for (where, text), token in itertools.product(printed.items(), known)
        for line in text.splitlines()
        if token in line
    ] == []


def test_the_list_of_processes_does_not_show_it() -> None:
    with LocalCluster(workers=1) as cluster:
        token = cluster.environ()[TOKEN_VARIABLE]
        lines = []
        for process in everybody():
            try:
                lines.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        assert [line for line in lines if "pytest_localcluster._launch.guard" in line]
        assert [line for line in lines if token in line] == []


def add(server: object, task: object) -> None:
    """Add no service."""


@pytest.mark.parametrize("runtime", ["native", ServicerRuntime(worker=add, ps=add, token=True)])
@pytest.mark.parametrize("launcher", ["process", "thread"])
def test_no_repr_shows_it(launcher: str, runtime: object) -> None:
    with LocalCluster(workers=1, launcher=launcher, runtime=runtime) as cluster:
        token = str(cluster.environ()[TOKEN_VARIABLE])
        assert len(token) == 32
        things: list[object] = [cluster, cluster.config, cluster.spec, cluster.environ()]
        for server in cluster.servers:
            place = server._life.place
            things += [server, server.log, server._life, place, *place, place.assignment.context]
            things += [server.run(lambda: repr(current_task())), server.channel()]
            things += [cluster.environ(server), vars(server), vars(server._life)]
        if runtime == "native":
            session = cluster.session()
            things += [session, vars(session), vars(session._connection)]
        assert [thing for thing in things if token in repr(thing)] == []
        assert [thing for thing in things if token in str(thing)] == []
