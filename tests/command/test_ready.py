"""When programs count as started, and what is said of those that never do."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from pytest_localcluster import (
    CommandRuntime,
    LocalCluster,
    Server,
    ServerExited,
    StartError,
    StartTimeout,
    Task,
)
from pytest_localcluster._clock import Deadline, poll
from tests.command.commands import HEALTHY, SERVE, said, shell
from tests.reach import listens


def asks_the_port(server: Server) -> bool:
    return listens(server.address)


def said_serving(server: Server) -> int:
    return server.log.text().count("serving")


@pytest.mark.parametrize(
    ("command", "ready"),
    [
        (SERVE, "tcp"),
        (SERVE, re.compile(r"^serving at port \d+$", re.MULTILINE)),
        (SERVE, asks_the_port),
        (SERVE, {"ps": said("serving")}),
        ([sys.executable, "-c", HEALTHY, "{port}"], "grpc"),
    ],
    ids=["tcp", "regex", "function", "by job", "grpc"],
)
def test_when_it_is_ready_it_serves(command: list[Any], ready: Any) -> None:
    runtime = CommandRuntime(ps=command, ready=ready)
    with LocalCluster(workers=0, ps=2, runtime=runtime, start_timeout=20) as cluster:
        for server in cluster.ps:
            assert listens(server.address)
        lines = 0 if HEALTHY in command else 1
        assert poll(lambda: said_serving(cluster.ps[0]) == lines, Deadline(20)), "after it listens"
        cluster.ps[0].restart()
        assert listens(cluster.ps[0].address)
        assert poll(lambda: said_serving(cluster.ps[0]) == 2 * lines, Deadline(20)), "it goes on"


def test_a_function_may_raise_until_it_agrees() -> None:
    answers: list[object] = [ConnectionError("not yet"), False, None, "yes"]

    def agrees(server: Server) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with LocalCluster(workers=0, runtime=CommandRuntime(ps=shell("echo"), ready=agrees)):
        assert answers == []


def never(server: Server) -> bool:
    raise LookupError("no such key")


@pytest.mark.parametrize(
    ("command", "ready", "missing"),
    [
        (shell("echo hello"), "tcp", r"nothing listens on localhost:\d+ \(.*refused\)"),
        (shell("echo hello"), said("ready now"), "it has not printed 'ready now'"),
        (shell("echo hello"), never, "never raised LookupError: no such key"),
        (shell("echo hello"), bool, None),
        (
            shell("echo hello"),
            "grpc",
            r"the gRPC health service at .* does not answer: UNAVAILABLE",
        ),
    ],
    ids=["tcp", "regex", "raises", "true at once", "no health service"],
)
def test_what_never_becomes_ready(command: list[Any], ready: Any, missing: str | None) -> None:
    cluster = LocalCluster(
        workers=0, runtime=CommandRuntime(ps=command, ready=ready), start_timeout=1.0
    )
    if missing is None:
        cluster.start().stop()
        return
    with pytest.raises(StartTimeout, match=missing) as caught:
        cluster.start()
    text = str(caught.value)
    assert text.startswith("/job:ps/task:0 was not ready after 1 s: ")
    assert "still alive; its program is: " in text
    assert ("| hello" in text) or ("it has printed nothing" in text)
    assert "raise --cluster-start-timeout" in text
    assert not cluster.servers[0].is_alive(), "nothing is left of it"


@pytest.mark.parametrize(
    ("command", "status", "evidence"),
    [
        (["sh", "-c", "echo no config; exit 3"], "exited with status 3", "| no config"),
        (["sh", "-c", "echo ouch; kill -SEGV $$"], "was killed by SIGSEGV", "| ouch"),
        (["true"], "exited with status 0", ""),
    ],
)
@pytest.mark.parametrize("ready", ["tcp", said("never")])
def test_what_exits_at_once(command: list[str], status: str, evidence: str, ready: Any) -> None:
    cluster = LocalCluster(workers=0, runtime=CommandRuntime(ps=command, ready=ready))
    with pytest.raises(StartError) as caught:
        cluster.start()
    first = str(caught.value).splitlines()[0]
    assert first.startswith(f"/job:ps/task:0 did not start: {command[0]}")
    assert first.endswith(status)
    assert evidence in str(caught.value)
    assert isinstance(caught.value.__cause__, ServerExited)


def not_started(command: list[Any]) -> str:
    cluster = LocalCluster(workers=0, runtime=CommandRuntime(ps=command))
    with pytest.raises(StartError) as caught:
        cluster.start()
    text = str(caught.value)
    assert "Traceback" not in text, "the message says it all"
    return text.splitlines()[0]


def test_what_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = tmp_path / "plain"
    plain.write_text("no program")
    assert "no program 'no-such' is on the PATH; the command is: no-such -v" in not_started(
        ["no-such", "-v"]
    )
    assert "is on the PATH; for the one in" in not_started(["plain"])
    assert f"there is no './absent' (working directory {tmp_path})" in not_started(["./absent"])
    assert f"'{tmp_path}' is a directory; the command is" in not_started([tmp_path])
    assert f"'{plain}' is not executable (chmod +x); the command is" in not_started([plain])


def test_what_cannot_be_executed(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o700)
    assert "the interpreter that its first line names does not exist" in not_started([script])
    script.write_text("neither a binary nor a script")
    assert "nor a script that begins with #!; the command is" in not_started([script])
    assert "its arguments and environment are too long" in not_started(["true", "x" * (1 << 22)])


def test_a_health_service_that_says_no() -> None:
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"localhost:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    runtime = CommandRuntime(ps=["x"], ready="grpc")
    started: Any = SimpleNamespace(address=address, task=Task("ps", 0))
    assert runtime.ready(started) == ""
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert runtime.ready(started) == f"the gRPC health service at {address} says NOT_SERVING"
    server.stop(None).wait()
